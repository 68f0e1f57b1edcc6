"""mypy and pyright over the package and over types_check.py, whose wrong uses have to
be errors; and the grammar of the oldest Python that is promised. mypy is Debian's, or
any that is on the PATH; pyright is one of sdk/typescript's packages."""

import ast
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[1]
CHECK = ROOT / "tests/types_check.py"
PYRIGHT = ROOT.parent / "typescript/node_modules/.bin/pyright"


class Types(unittest.TestCase):
    def missing(self, what):
        if os.environ.get("ACTPASS_SDK_REQUIRE"):
            self.fail(what)
        self.skipTest(what)

    def test_mypy(self):
        mypy = shutil.which("mypy")
        if not mypy:
            self.missing("mypy is not installed")
        with tempfile.TemporaryDirectory() as cache:
            for what in ("actpass", "tests/types_check.py"):
                p = subprocess.run(
                    [mypy, "--strict", "--python-version", "3.9", "--no-error-summary", "--cache-dir", cache, what],
                    cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True,
                )  # fmt: skip
                self.assertEqual((p.stdout + p.stderr, p.returncode), ("", 0))

    def test_pyright(self):
        if not PYRIGHT.exists():
            self.missing("pyright is not installed: npm ci in sdk/typescript")
        p = subprocess.run([str(PYRIGHT), "-p", str(ROOT / "tests/pyrightconfig.json")], capture_output=True, text=True)
        self.assertEqual(p.returncode, 0, p.stdout + p.stderr)

    def test_the_wrong_uses_are_there(self):
        self.assertGreater(CHECK.read_text("utf-8").count("# type: ignore"), 15)

    def test_it_is_written_for_python_3_9(self):
        for path in sorted((ROOT / "actpass").glob("*.py")):
            ast.parse(path.read_text("utf-8"), str(path), feature_version=(3, 9))
        with self.assertRaises(SyntaxError):
            ast.parse("match 1:\n    case _: pass", feature_version=(3, 9))


if __name__ == "__main__":
    unittest.main()
