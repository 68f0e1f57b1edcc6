"""The wheel, installed without a network into an empty virtual environment."""

import pathlib
import subprocess
import sys
import tempfile
import unittest
import venv

ROOT = pathlib.Path(__file__).resolve().parents[1]
USE = """import actpass, pathlib, sys
assert pathlib.Path(actpass.__file__).parent.joinpath('py.typed').exists() and sys.prefix in actpass.__file__
a = actpass.ActPass('sk_live_x', 'a', base_url='http://127.0.0.1:9', retries=0)
print(a.guard(tool='t', execute=lambda: 1).error.kind)"""


class Package(unittest.TestCase):
    def test_installed_into_an_empty_environment(self):
        with tempfile.TemporaryDirectory() as d:
            venv.create(d, with_pip=True)
            python = pathlib.Path(d) / "bin" / "python"
            subprocess.run([python, "-m", "pip", "install", "-q", "--no-index", "--disable-pip-version-check", str(ROOT)], check=True)
            out = subprocess.run([python, "-c", USE], cwd=d, check=True, capture_output=True, text=True).stdout
            self.assertEqual(out, "unreachable\n")
            shown = subprocess.run([python, "-m", "pip", "check"], check=True, capture_output=True, text=True).stdout
            self.assertIn("No broken requirements", shown)

    def test_importing_it_is_quick(self):
        code = "import time; t = time.perf_counter(); import actpass; print(time.perf_counter() - t)"
        took = min(float(subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout) for _ in range(7))
        print(f"import {took * 1000:.1f} ms", file=sys.stderr)
        self.assertLess(took, 0.02)


if __name__ == "__main__":
    unittest.main()
