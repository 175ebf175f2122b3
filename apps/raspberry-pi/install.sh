#!/bin/sh
# Makes .venv and, as root, the systemd service: sh install.sh && sudo sh install.sh --service [NAME]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ "$(getconf LONG_BIT)" = 32 ]; then
  echo "error: this is a 32-bit system, and the runtimes have no packages for it" >&2
  echo "  install the 64-bit Raspberry Pi OS; every Raspberry Pi since the 3 and the Zero 2 W runs it" >&2
  exit 1
fi
if [ "${1:-}" = --service ]; then
  name=${2:-edgevit-classifier}
  user=${SUDO_USER:-$(id -un)}
  file=/etc/systemd/system/$name.service
  if [ ! -x "$here/.venv/bin/python" ]; then
    echo "error: there is no .venv yet; without sudo: sh install.sh" >&2
    exit 1
  fi
  cd "$here"
  unit=$(.venv/bin/python -B -m classifier.systemd "$user" "$here")
  if [ -e "$file" ] && ! grep -qxF "$(printf '%s\n' "$unit" | grep '^WorkingDirectory=')" "$file"; then
    echo "error: $file is there already, for another folder; nothing was changed" >&2
    echo "  give this one a name of its own: sudo sh install.sh --service edgevit-door" >&2
    exit 1
  fi
  printf '%s\n' "$unit" >"$file"
  systemctl daemon-reload
  systemctl enable --now "$name"
  echo "journalctl -fu $name shows what it does"
  exit 0
fi
# Raspberry Pi OS brings picamera2 as a Debian package: the environment must see it.
python3 -m venv --system-site-packages "$here/.venv"
"$here/.venv/bin/python" -m pip install --quiet -r "$here/requirements.txt"
echo "try it: cd '$here' && .venv/bin/python -m classifier"
