"""An emulated ARM64 computer to try devices against: Debian's arm64 userland under qemu-user, reached over a real sshd.

It has the files that a Raspberry Pi shows (`/proc/cpuinfo`, thermal zone, cpufreq, `vcgencmd`) with fixed values, so
that what reads them is exercised. Its timings mean nothing, and edgevit stamps them as emulated.

    python tools/lab/emulated.py pi --debian 13 --cpu cortex-a76      # builds once, starts, prints how to reach it
    python tools/lab/emulated.py build --debian 12                    # builds only

Needs root and Debian's packages, which it installs: mmdebstrap, qemu-user-static, openssh-server. The root file system
is kept in the cache folder; EDGEVIT_EMULATED moves it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

SUITES = {12: "bookworm", 13: "trixie"}
CPUS = {"cortex-a53": "0xd03", "cortex-a72": "0xd08", "cortex-a76": "0xd0b"}
_BASE = (
    "base-files,base-passwd,bash,dash,coreutils,sed,grep,mawk,findutils,util-linux,login,passwd,libc-bin,hostname,tar,"
    "gzip,procps,ca-certificates"
)
_PI = "python3,openssh-server,openssh-sftp-server,libstdc++6,libgomp1,libpam-modules,libpam-runtime"
_ANDROID = "adbd"
_PACKAGES = {
    "mmdebstrap": "mmdebstrap",
    "qemu-aarch64-static": "qemu-user-static",
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "adb": "adb",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
}
_GETPROP = """#!/bin/sh
cat <<END
[ro.product.manufacturer]: [Debian]
[ro.product.model]: [adbd on arm64]
[ro.build.version.release]: [15]
[ro.soc.manufacturer]: [nobody]
[ro.soc.model]: [none]
[ro.build.fingerprint]: [edgevit/emulated]
END
"""
_DUMPSYS = """#!/bin/sh
case "$1" in
battery) printf '  USB powered: true\\n  status: 2\\n  level: 77\\n  scale: 100\\n  temperature: 312\\n' ;;
thermalservice)
  printf 'IsStatusOverride: false\\nThermal Status: 0\\nCurrent temperatures from HAL:\\n'
  printf '\\tTemperature{mValue=45.0, mType=0, mName=BIG, mStatus=0}\\nCurrent cooling devices from HAL:\\n' ;;
esac
"""
_LOOPBACK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
/* Debian's adbd binds every address, and vsock; it has no option for less. */
int socket(int domain, int type, int protocol) {
  int (*real)(int, int, int) = dlsym(RTLD_NEXT, "socket");
  if (domain == AF_VSOCK) { errno = EAFNOSUPPORT; return -1; }
  return real(domain, type, protocol);
}
int bind(int fd, const struct sockaddr *address, socklen_t size) {
  int (*real)(int, const struct sockaddr *, socklen_t) = dlsym(RTLD_NEXT, "bind");
  struct sockaddr_storage own;
  memcpy(&own, address, size);
  if (own.ss_family == AF_INET) ((struct sockaddr_in *)&own)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  static const unsigned char mapped[16] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 127, 0, 0, 1};
  if (own.ss_family == AF_INET6) memcpy(&((struct sockaddr_in6 *)&own)->sin6_addr, mapped, 16);
  return real(fd, (struct sockaddr *)&own, size);
}
"""
_VCGENCMD = """#!/bin/sh
case "$*" in
measure_temp) echo "temp=48.3'C" ;;
get_throttled) echo "throttled=0x0" ;;
"measure_clock arm") echo "frequency(0)=2400020480" ;;
pmic_read_adc) cat /usr/share/pmic.txt ;;
*) echo 'error=1 error_msg="Command not registered"'; exit 255 ;;
esac
"""
_PMIC = """  3V7_WL_SW_A current(0)=0.07000000A
    VDD_CORE_A current(7)=1.50000000A
   3V7_WL_SW_V volt(8)=3.70000000V
    VDD_CORE_V volt(15)=0.80000000V
       EXT5V_V volt(24)=5.10000000V
        BATT_V volt(25)=0.00000000V
"""


@dataclass(frozen=True)
class Emulated:
    """A running emulated computer.

    Attributes:
        uri: for ``edgevit profile -d``.
        ssh_config: for ``edgevit profile --ssh-config``.
        root: its file system.
        pid: of its sshd.
    """

    uri: str
    ssh_config: Path
    root: Path
    pid: int


def install(*programs: str) -> None:
    """Install the Debian packages of programs that are not there."""
    missing = [_PACKAGES[name] for name in programs if not shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin")]
    if missing:
        with FileLock("/tmp/edgevit-apt.lock"):
            subprocess.run(["apt-get", "update", "-qq"], check=True, stdout=subprocess.DEVNULL)
            command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def cache() -> Path:
    """Where the file systems lie."""
    return Path(os.environ.get("EDGEVIT_EMULATED") or user_cache_path("edgevit-emulated"))


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def register_binfmt() -> None:
    """Let the kernel run arm64 programs through qemu, in a chroot too (flags POF)."""
    folder = Path("/proc/sys/fs/binfmt_misc")
    if not (folder / "register").exists():
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(folder)], check=True)
    if not (folder / "qemu-aarch64").exists():
        (folder / "register").write_text(Path("/usr/lib/binfmt.d/qemu-aarch64.conf").read_text().strip())


def build(debian: int, kind: str = "pi") -> Path:
    """The root file system, unpacked from Debian's packages: none of their scripts is run, so nothing is emulated."""
    install("mmdebstrap", "qemu-aarch64-static")
    root = cache() / f"{kind}-{debian}"
    cache().mkdir(parents=True, exist_ok=True)
    with FileLock(str(root) + ".lock"):
        if (root / "etc/edgevit-ready").exists():
            return root
        shutil.rmtree(root, ignore_errors=True)
        archive = root.with_suffix(".tar")
        packages = f"{_BASE},{_PI if kind == 'pi' else _ANDROID}"
        command = ["mmdebstrap", "--quiet", "--arch=arm64", "--variant=extract", f"--include={packages}"]
        subprocess.run([*command, SUITES[debian], str(archive), "http://deb.debian.org/debian"], check=True)
        root.mkdir()
        with tarfile.open(archive) as packed:
            # device nodes and all; an attribute, because Python before 3.11.4 knows no filters
            packed.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
            packed.extractall(root)
        archive.unlink()
        dress(root)
        (root / "etc/edgevit-ready").touch()
    return root


def dress(root: Path) -> None:
    """Users, device nodes and the files that a Raspberry Pi 5 shows; the values are fixtures."""
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\npi:x:1000:1000::/home/pi:/bin/sh\n"
    )
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\npi:x:1000:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for folder in ("home/pi/.ssh", "run/sshd", "root", "tmp", "proc", "dev", "etc/ssh", "data/local/tmp"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name, major, minor in (("null", 1, 3), ("zero", 1, 5), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)):
        node = root / "dev" / name
        if not node.exists():
            os.mknod(node, 0o20666, os.makedev(major, minor))
            node.chmod(0o666)
    cpus = root / "sys/devices/system/cpu"
    policy = cpus / "cpufreq/policy0"
    zone, tree = root / "sys/class/thermal/thermal_zone0", root / "sys/firmware/devicetree/base"
    for folder in (policy, zone, tree):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("present", "possible", "online"):
        (cpus / name).write_text("0-1\n")
    clock = {"scaling_governor": "ondemand", "scaling_cur_freq": "2400000", "scaling_max_freq": "2400000"}
    for name, value in {**clock, "cpuinfo_max_freq": "2400000", "cpuinfo_min_freq": "1500000"}.items():
        (policy / name).write_text(value + "\n")
    for core in ("cpu0", "cpu1"):
        shutil.copytree(policy, cpus / core / "cpufreq", dirs_exist_ok=True)
    (zone / "type").write_text("cpu-thermal\n")
    (zone / "temp").write_text("48750\n")
    (tree / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.0\0")
    (root / "usr/bin/vcgencmd").write_text(_VCGENCMD)
    (root / "usr/bin/vcgencmd").chmod(0o755)
    (root / "usr/share/pmic.txt").write_text(_PMIC)
    for name, text in (("getprop", _GETPROP), ("dumpsys", _DUMPSYS)):
        if (root / "usr/sbin/adbd").exists() or (root / "usr/bin/adbd").exists():
            (root / "usr/bin" / name).write_text(text)
            (root / "usr/bin" / name).chmod(0o755)
    os.chown(root / "home/pi", 1000, 1000)
    os.chown(root / "home/pi/.ssh", 1000, 1000)


def cpuinfo(cpu: str) -> str:
    """`/proc/cpuinfo` of two cores: what it shows of the host's would crash runtimes that look for ARM there."""
    features = "fp asimd evtstrm aes pmull sha1 sha2 crc32"
    if cpu == "cortex-a76":
        features += " atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
    core = (
        "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\n"
        "CPU variant\t: 0x4\nCPU part\t: {}\nCPU revision\t: 1\n\n"
    )
    return "".join(core.format(index, features, CPUS[cpu]) for index in range(2))


@contextmanager
def emulated_pi(debian: int, cpu: str, folder: Path) -> Iterator[Emulated]:
    """Run the computer until the block ends.

    Args:
        debian: 12 or 13.
        cpu: as qemu names it; programs with other instructions die of SIGILL.
        folder: for keys and logs.
    """
    install("sshd", "ssh")
    root = build(debian)
    register_binfmt()
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{debian}-{cpu}-{os.getpid()}"
    for key in ("host", "user"):
        if not (folder / key).exists():
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "edgevit", "-f", str(folder / key)]
            subprocess.run(command, check=True)
    inside = root / "etc/ssh" / f"edgevit-{name}"
    inside.mkdir(parents=True)
    shutil.copy(folder / "host", inside / "host")
    shutil.copy(folder / "user.pub", inside / "keys")
    (inside / "cpuinfo").write_text(cpuinfo(cpu))
    port = free_port()
    (inside / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey /etc/ssh/edgevit-{name}/host\nPidFile none\n"
        f"AuthorizedKeysFile /etc/ssh/edgevit-{name}/keys\nStrictModes no\nPasswordAuthentication no\n"
        f"KbdInteractiveAuthentication no\nUsePAM no\nSetEnv QEMU_CPU={cpu}\nSubsystem sftp internal-sftp\n"
    )
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    config = folder / "ssh_config"
    config.write_text(
        f"Host *\n  User pi\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known_hosts\n  ConnectTimeout 60\n"
    )
    # A mount namespace of its own: what is mounted goes with the process, whatever ends it.
    script = (
        f"mount -t proc proc {root}/proc && mount --bind {inside}/cpuinfo {root}/proc/cpuinfo && "
        f"exec chroot {root} /usr/sbin/sshd -D -e -f /etc/ssh/edgevit-{name}/config"
    )
    with (folder / "sshd.log").open("w") as log:
        sshd = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "QEMU_CPU": cpu},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_for(port, sshd, folder / "sshd.log")
        yield Emulated(f"ssh://pi@127.0.0.1:{port}", config, root, sshd.pid)
    finally:
        os.killpg(sshd.pid, signal.SIGTERM)
        sshd.wait()
        shutil.rmtree(inside)


@dataclass(frozen=True)
class Adbd:
    """A running adbd.

    Attributes:
        serial: as adb names it once connected.
        environment: that adb's client needs: a server and keys of its own.
        root: its file system.
        pid: of the daemon.
    """

    serial: str
    environment: dict[str, str]
    root: Path
    pid: int


def adb_environment(folder: Path) -> dict[str, str]:
    """An adb server of one's own: another port, other keys, nobody else's devices."""
    folder.mkdir(parents=True, exist_ok=True)
    return {"ANDROID_ADB_SERVER_PORT": str(free_port()), "HOME": str(folder), "ADB_MDNS": "0"}


@contextmanager
def emulated_adbd(cpu: str, folder: Path) -> Iterator[Adbd]:
    """Debian's build of Android's own adbd for arm64, under qemu-user, until the block ends."""
    install("adb", "aarch64-linux-gnu-g++")
    root = build(13, "android")
    register_binfmt()
    port, name = free_port(), f"edgevit-{os.getpid()}"
    inside = root / "opt" / name
    inside.mkdir(parents=True)
    (inside / "cpuinfo").write_text(cpuinfo(cpu))
    (inside / "loopback.c").write_text(_LOOPBACK)
    command = ["aarch64-linux-gnu-gcc", "-O2", "-shared", "-fPIC", "loopback.c", "-o", "loopback.so", "-ldl"]
    subprocess.run(command, check=True, cwd=inside)
    program = next(path for path in ("/usr/sbin/adbd", "/usr/bin/adbd") if (root / path[1:]).exists())
    mounts = f"mount -t proc proc {root}/proc && mount --bind {inside}/cpuinfo {root}/proc/cpuinfo"
    script = f"{mounts} && exec chroot {root} {program}"
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "QEMU_CPU": cpu, "HOME": "/root", "ADBD_PORT": str(port)}
    environment["QEMU_SET_ENV"] = f"LD_PRELOAD=/opt/{name}/loopback.so"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "adbd.log").open("w") as log:
        daemon = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    own = adb_environment(folder / "home")
    serial = f"127.0.0.1:{port}"
    try:
        connect(serial, own)
        yield Adbd(serial, own, root, daemon.pid)
    finally:
        adb(own, "kill-server")
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()
        shutil.rmtree(inside)


def adb(environment: dict[str, str], *arguments: str) -> str:
    """Run adb's client and give what it says."""
    command = ["adb", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def connect(serial: str, environment: dict[str, str], seconds: float = 40) -> None:
    """Have adb's server connect to a device on the network."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        adb(environment, "connect", serial)
        if f"{serial}\tdevice" in adb(environment, "devices"):
            return
        time.sleep(0.5)
    raise RuntimeError(f"adb cannot connect to {serial}: {adb(environment, 'devices')}")


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as open_socket:
                open_socket.settimeout(30)
                if open_socket.recv(4) == b"SSH-":
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise RuntimeError(f"the emulated sshd did not start:\n{log.read_text()}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["pi", "build"])
    parser.add_argument("--debian", type=int, default=13, choices=sorted(SUITES))
    parser.add_argument("--cpu", default="cortex-a76", choices=sorted(CPUS))
    parser.add_argument("--folder", type=Path, default=Path("build/emulated"))
    options = parser.parse_args()
    if options.what == "build":
        print(build(options.debian))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started ends too
    with emulated_pi(options.debian, options.cpu, options.folder.resolve()) as pi:
        print(f"edgevit profile BUNDLE -d {pi.uri} --ssh-config {pi.ssh_config}", flush=True)
        try:
            signal.pause()
        except KeyboardInterrupt:
            sys.exit(130)


if __name__ == "__main__":
    main()
