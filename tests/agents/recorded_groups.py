"""Memory groups as real kernels show them, written as trees below a directory that stands for /."""

from pathlib import Path

V1_UNLIMITED = "9223372036854771712\n"
V1_HOST_MOUNTS = """\
23 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V1_HOST_PATHS = "9:name=systemd:/\n8:pids:/\n4:memory:/system/agent\n1:cpu:/\n0::/\n"
# Docker 20.10 on v1: no namespace of its own, so the path is the host's, and the mount shows only the container's part.
CONTAINER = "/docker/5f0c1e4b7a2d9c8e6b3f"
V1_CONTAINER_MOUNTS = f"""\
612 500 0:72 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
620 612 0:77 / /sys ro,nosuid,nodev,noexec,relatime - sysfs sysfs ro
621 620 0:78 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - tmpfs tmpfs rw,mode=755
622 621 0:30 {CONTAINER} /sys/fs/cgroup/cpuacct ro,nosuid,nodev,noexec,relatime master:9 - cgroup cgroup rw,cpuacct
624 621 0:32 {CONTAINER} /sys/fs/cgroup/memory ro,nosuid,nodev,noexec,relatime master:11 - cgroup cgroup rw,memory
"""
V1_CONTAINER_PATHS = f"4:memory:{CONTAINER}\n2:cpuacct:{CONTAINER}\n0::/\n"
# Docker on v2: a namespace of its own, in which the container's group is the root.
V2_CONTAINER_MOUNTS = """\
612 500 0:72 / / rw,relatime - overlay overlay rw,lowerdir=/l,upperdir=/u,workdir=/w
630 620 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate,memory_recursiveprot
"""
V2_EVENTS = "low 0\nhigh 0\nmax 212\noom 3\noom_kill {kills}\noom_group_kill 0\n"
V1_EVENTS = "oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n"


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def v1_files(root: Path, group: str, limit: str, peak: int, usage: int, kills: int) -> None:
    write(root, f"{group}/memory.limit_in_bytes", limit)
    write(root, f"{group}/memory.max_usage_in_bytes", f"{peak}\n")
    write(root, f"{group}/memory.usage_in_bytes", f"{usage}\n")
    write(root, f"{group}/memory.oom_control", V1_EVENTS.format(kills=kills))


def v1_host(root: Path) -> None:
    """An agent in a group below one that is limited; the whole tree is mounted."""
    write(root, "proc/self/mountinfo", V1_HOST_MOUNTS)
    write(root, "proc/self/cgroup", V1_HOST_PATHS)
    memory = "sys/fs/cgroup/memory"
    v1_files(root, memory, V1_UNLIMITED, 900 << 20, 700 << 20, 40)
    v1_files(root, f"{memory}/system", f"{512 << 20}\n", 300 << 20, 200 << 20, 7)
    v1_files(root, f"{memory}/system/agent", V1_UNLIMITED, 100 << 20, 80 << 20, 2)


def v1_container(root: Path, peak: int = 64 << 20, kills: int = 1) -> None:
    """What a process in a container of Docker sees with v1."""
    write(root, "proc/self/mountinfo", V1_CONTAINER_MOUNTS)
    write(root, "proc/self/cgroup", V1_CONTAINER_PATHS)
    v1_files(root, "sys/fs/cgroup/memory", f"{64 << 20}\n", peak, 20 << 20, kills)


def v2_container(root: Path, peak: int | None = 64 << 20, limit: str = f"{64 << 20}\n", kills: int = 3) -> None:
    """What a process in a container of Docker sees with v2; memory.peak came with Linux 5.19."""
    write(root, "proc/self/mountinfo", V2_CONTAINER_MOUNTS)
    write(root, "proc/self/cgroup", "0::/\n")
    write(root, "sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n")
    write(root, "sys/fs/cgroup/memory.max", limit)
    write(root, "sys/fs/cgroup/memory.current", f"{20 << 20}\n")
    write(root, "sys/fs/cgroup/memory.events", V2_EVENTS.format(kills=kills))
    if peak is not None:
        write(root, "sys/fs/cgroup/memory.peak", f"{peak}\n")
