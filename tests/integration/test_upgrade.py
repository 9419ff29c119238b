"""``deploy/agent/upgrade.sh`` with real agents: to one that runs, and back from one that fails.

There is no systemd in a container, so a small stand-in starts the unit's command, waits for the
agent's own READY=1 as ``Type=notify`` does, and tells whether it still runs.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SYSTEMCTL = """\
import os, pathlib, signal, socket, subprocess, sys
top = pathlib.Path({top!r})
pid = top / "pid"
def alive():
    if not pid.exists():
        return False
    stat = pathlib.Path(f"/proc/{{pid.read_text()}}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
if "is-active" in sys.argv:
    sys.exit(0 if alive() else 3)
if "try-restart" in sys.argv:
    with (top / "servers").open("a") as file:
        print(os.readlink(top / "current"), sys.argv[-1], file=file)
    sys.exit()
if "show" in sys.argv:
    print(0)
    sys.exit()
if alive():
    os.kill(int(pid.read_text()), signal.SIGTERM)
    while alive():
        pass
listening = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
(top / "notify").unlink(missing_ok=True)
listening.bind(str(top / "notify"))
listening.settimeout(0.1)
agent = subprocess.Popen(
    [str(top / "current/bin/fitment-agent"), "run", "--data-dir", str(top / "data")],
    env={{**os.environ, "NOTIFY_SOCKET": str(top / "notify")}}, start_new_session=True,
    stdout=subprocess.DEVNULL, stderr=(top / "log").open("a"),
)
pid.write_text(str(agent.pid))
while agent.poll() is None:
    try:
        if b"READY=1" in listening.recv(1000):
            sys.exit(0)
    except TimeoutError:
        pass
sys.exit(1)
"""
PYTHON = """\
#!/bin/sh
# `-m venv FOLDER`: an environment whose own python "installs" an agent of the version it is given.
mkdir -p "$3/bin"
cat > "$3/bin/python" <<'END'
#!/bin/sh
for version; do :; done
case $version in
missing) echo "no such version" >&2; exit 1 ;;
broken) run='exit 7' ;;
*) run="exec {python} -m agent \\"\\$@\\"" ;;
esac
printf '#!/bin/sh\\n[ "$1" = --version ] && exec echo %s\\ncd {root}; %s\\n' "$version" "$run" \\
    > "$(dirname "$0")/fitment-agent"
chmod +x "$(dirname "$0")/fitment-agent"
END
chmod +x "$3/bin/python"
"""


@pytest.fixture
def top(tmp_path: Path, root: Path) -> Iterator[Path]:
    """What /opt/fitment is, with an enrolled device whose gateway nobody answers at."""
    (tmp_path / "data" / "keys").mkdir(parents=True)
    identity = {"device": "cam-1", "gateway": "127.0.0.1:1", "mqtt": "mqtt://127.0.0.1:1"}
    (tmp_path / "data" / "keys" / "enrolment.json").write_text(json.dumps(identity))
    for name, text in (
        ("python", PYTHON.format(python=sys.executable, root=root)),
        ("systemctl", f"#!{sys.executable}\n{SYSTEMCTL.format(top=str(tmp_path))}"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    yield tmp_path
    if (tmp_path / "pid").exists():
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)


def upgrade(top: Path, root: Path, version: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(root / "deploy/agent/upgrade.sh"), version],
        capture_output=True, text=True, timeout=60, check=False,
        env={
            **os.environ, "FITMENT_ROOT": str(top), "PYTHON": str(top / "python"),
            "SYSTEMCTL": str(top / "systemctl"), "FITMENT_HEALTHY_S": "1",
            "PYTHONPATH": f"{root}:{root / 'protos'}",
        },
    )  # fmt: skip


def running(top: Path) -> bool:
    return subprocess.run([top / "systemctl", "is-active", "u"], check=False).returncode == 0


def test_an_upgrade_moves_on_only_to_an_agent_that_runs(top: Path, root: Path) -> None:
    refused = upgrade(top, root, "1.0")
    assert (refused.returncode, "must be a link to 'a' or 'b'" in refused.stderr) == (1, True)
    (top / "current").symlink_to("a")
    for version, at, code, words in (
        ("1.0", "b", 0, "b has run for 1 s"),
        ("missing", "b", 1, "b goes on as it was"),
        ("broken", "b", 1, "b runs again"),
        ("2.0", "a", 0, "b is kept for the way back"),
    ):
        done = upgrade(top, root, version)
        assert done.returncode == code, done.stderr + (top / "log").read_text()
        assert words in done.stdout + done.stderr
        assert os.readlink(top / "current") == at  # noqa: PTH115 - the text itself
        assert running(top)
    os.kill(int((top / "pid").read_text()), signal.SIGTERM)
    until = time.monotonic() + 20
    while running(top) and time.monotonic() < until:
        time.sleep(0.05)
    assert (top / "log").read_text().count("action=start") == 3
    (top / "pid").unlink()
    assert (top / "servers").read_text() == "b fitment-serve@*\na fitment-serve@*\n"


def test_both_units_make_the_folder_of_sockets(root: Path) -> None:
    made = {"RuntimeDirectory=fitment", "RuntimeDirectoryMode=0750", "RuntimeDirectoryPreserve=yes"}
    for unit in ("fitment-agent.service", "fitment-serve@.service"):
        assert made <= set((root / "deploy/agent" / unit).read_text().splitlines())
