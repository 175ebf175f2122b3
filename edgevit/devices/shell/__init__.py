"""Devices with a shell: files, commands and facts over SSH or adb."""
