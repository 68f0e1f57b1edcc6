"""Builds the wheel and the source archive (PEP 517) with the standard library
alone, so that installing needs no network."""

import base64
import hashlib
import io
import pathlib
import re
import tarfile
import zipfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TEXT = (ROOT / "pyproject.toml").read_text("utf-8")


def _field(name):
    return re.search(rf'(?m)^{name} = "([^"]*)"$', TEXT)[1]


NAME, VERSION = _field("name"), _field("version")


def _metadata():
    return (
        f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {VERSION}\nSummary: {_field('description')}\nLicense: {_field('license')}\n"
        f"Requires-Python: {_field('requires-python')}\nClassifier: Typing :: Typed\n"
        f"Description-Content-Type: text/markdown\n\n{(ROOT / 'README.md').read_text('utf-8')}"
    ).encode("utf-8")


def _sources():
    return sorted(p for p in (ROOT / NAME).rglob("*") if p.suffix == ".py" or p.name == "py.typed")


def get_requires_for_build_wheel(config_settings=None):
    return []


get_requires_for_build_sdist = get_requires_for_build_wheel


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    info = f"{NAME}-{VERSION}.dist-info"
    files = [(p.relative_to(ROOT).as_posix(), p.read_bytes()) for p in _sources()]
    files.append((f"{info}/METADATA", _metadata()))
    files.append((f"{info}/LICENSE", (ROOT / "LICENSE").read_bytes()))
    files.append((f"{info}/WHEEL", b"Wheel-Version: 1.0\nGenerator: actpass\nRoot-Is-Purelib: true\nTag: py3-none-any\n"))
    record = ""
    for path, data in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(data)}\n"
    files.append((f"{info}/RECORD", (record + f"{info}/RECORD,,\n").encode()))
    name = f"{NAME}-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory) / name, "w", zipfile.ZIP_DEFLATED) as z:
        for path, data in files:
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            z.writestr(entry, data)
    return name


def build_sdist(sdist_directory, config_settings=None):
    base = f"{NAME}-{VERSION}"
    files = [ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE", ROOT / "build" / "backend.py", *_sources()]
    with tarfile.open(pathlib.Path(sdist_directory) / f"{base}.tar.gz", "w:gz", format=tarfile.PAX_FORMAT) as t:
        entries = [(p.relative_to(ROOT).as_posix(), p.read_bytes()) for p in files]
        for path, data in [*entries, ("PKG-INFO", _metadata())]:
            entry = tarfile.TarInfo(f"{base}/{path}")
            entry.size, entry.mode = len(data), 0o644
            t.addfile(entry, io.BytesIO(data))
    return f"{base}.tar.gz"
