#!/bin/sh
# Makes .venv and, as root, the systemd service: sh install.sh && sudo sh install.sh --service
set -eu
here=$(cd "$(dirname "$0")" && pwd)
if [ "${1:-}" = --service ]; then
  user=${SUDO_USER:-$(id -un)}
  sed "s|USER|$user|; s|FOLDER|$here|g" "$here/edgevit-classifier.service" >/etc/systemd/system/edgevit-classifier.service
  systemctl daemon-reload
  systemctl enable --now edgevit-classifier
  echo "journalctl -fu edgevit-classifier shows what it does"
  exit 0
fi
# Raspberry Pi OS brings picamera2 as a Debian package: the environment must see it.
python3 -m venv --system-site-packages "$here/.venv"
"$here/.venv/bin/pip" install --quiet -r "$here/requirements.txt"
echo "try it: cd $here && .venv/bin/python -m classifier"
