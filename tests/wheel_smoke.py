"""What an installed wheel must do with nothing but its required dependencies. Run it outside the source tree:

python wheel_smoke.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import clear


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "clear", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def main() -> None:
    # Catches: the terminal helper of the same import name, or the source tree on the path.
    assert Path(clear.__file__).is_relative_to(sys.prefix), clear.__file__
    # Catches: a library that came along although it is optional.
    optional = ["torch", "pyarrow", "jinja2", "matplotlib"]
    absent = [
        name
        for name in optional
        if subprocess.call([sys.executable, "-c", f"import {name}"], stderr=subprocess.DEVNULL)
    ]
    assert absent == optional, f"installed without being asked for: {set(optional) - set(absent)}"

    # Catches: a missing kernel or a wrong instruction-set switch.
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 60)
    values = (3 * rng.normal(size=(4, 16))[labels] + rng.normal(size=(240, 16))).astype(np.float32)
    values[:5] = values[70] + 0.1 * rng.normal(size=(5, 16))
    result = clear.scan(clear.Features.from_arrays(values, labels))
    assert result.verdict == "poisoned", result
    assert set(range(5)) <= set(result.pockets[0].rows), result.pockets[0]

    # Catches: a command line that needs an extra it does not name, or the template missing from the wheel.
    assert (Path(clear.__file__).parent / "templates" / "report.html.j2").exists()
    assert command("info").returncode == 0
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "x.npz")
        np.savez(path, features=values, labels=labels)
        assert command("scan", path).returncode == 1
        refused = command("scan", path, "--out", folder)
        assert refused.returncode == 3, refused
        assert "clear-pockets[report]" in refused.stderr, refused.stderr
    demo = command("demo")
    assert demo.returncode == 3, demo
    assert "clear-pockets[torch]" in demo.stderr, demo.stderr
    assert demo.stderr.count("\n") == 1, demo.stderr
    print("the wheel works")


if __name__ == "__main__":
    main()
