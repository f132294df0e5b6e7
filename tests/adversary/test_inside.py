"""What an attacker tries from inside its container: others' files, sockets, devices, the kernel. Nothing is got."""

import pytest
from battlefield import Battlefield

pytestmark = pytest.mark.docker

ATTACKS = {
    # others' files
    "a file by its path on the host": "tried(read, known['file'])",
    "a file by going up": "tried(read, '/jobd/user/../%(user)s/%(job)s/1/f' % known)",
    "the state directory": "tried(os.listdir, known['state'])",
    "a hard link out of the directory": "tried(os.link, '/jobd/agent/token', 'token')",
    "a process of another container": "tried(read, '/proc/%d/environ' % known['pid'])",
    "the root of another process": "tried(read, '/proc/%d/root%s' % (known['pid'], known['file']))",
    "only its own processes are seen": "pids = [int(p) for p in os.listdir('/proc') if p.isdigit()]\n"
    "if len(pids) > 20: got(pids)",
    # ways out
    "the engine's socket": "tried(reach, socket.AF_UNIX, known['engine'])\n"
    "tried(reach, socket.AF_UNIX, '/var/run/docker.sock')",
    "the admin socket": "tried(reach, socket.AF_UNIX, known['state'] + '/admin.sock')",
    "another agent's socket": "tried(reach, socket.AF_UNIX, known['doors'] + '/control.sock')",
    "the REST port": "for host in ('127.0.0.1', '172.17.0.1', '10.0.0.1'):\n"
    " tried(reach, socket.AF_INET, (host, known['port']))",
    "any network": "links = [line.split(':')[0].strip() for line in open('/proc/net/dev') if ':' in line]\n"
    "if links != ['lo']: got(links)",
    "abstract sockets of the host": "names = [line.split()[-1] for line in open('/proc/net/unix') if '@' in line]\n"
    "for name in names: got(name)",
    "raw packets": "tried(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)",
    # devices and mounts
    "a device made": "tried(os.mknod, 'sda', 0o600 | stat.S_IFBLK, os.makedev(8, 0))",
    "devices that are there": "for path in ('/dev/mem', '/dev/kmsg', '/dev/sda', '/dev/vda', '/dev/fuse'):\n"
    " tried(read, path)",
    "a mount": "called('mount', b'none', b'/tmp', b'tmpfs', 0, None)",
    "the mounts undone": "called('umount2', b'/jobd/agent', 2)",
    "another root": "called('chroot', b'/tmp')",
    # more rights
    "to be root": "tried(os.setuid, 0)\nif os.getuid() == 0: got('root')",
    "a program that is set-uid": "import shutil\nshutil.copy('/bin/sh', '/tmp/sh')\ntried(os.chown, '/tmp/sh', 0, 0)",
    "no capability is left": "for line in open('/proc/self/status'):\n"
    " if line.startswith('Cap') and int(line.split()[1], 16): got(line)\n"
    " if line.startswith('NoNewPrivs') and line.split()[1] != '1': got(line)\n"
    " if line.startswith('Seccomp:') and line.split()[1] != '2': got(line)",
    "a user namespace": "called('unshare', 0x10000000)",
    "another's namespace": "tried(os.open, '/proc/%d/ns/net' % known['pid'], os.O_RDONLY)",
    "calls that the kernel should not hear": "\n".join(
        f"called('syscall', {number}, 0, 0, 0, 0, 0)" for number in (246, 169, 175, 298, 321, 323, 250)
    ),  # kexec_load, reboot, init_module, perf_event_open, bpf, userfaultfd, keyctl
    # what all share
    "the agent's program": "tried(open, '/jobd/agent.pyz', 'ab')\ntried(os.unlink, '/jobd/agent/token')",
    "the image": "tried(open, '/usr/bin/python3', 'ab')\ntried(open, '/etc/passwd', 'ab')\ntried(open, '/new', 'wb')",
    "the kernel's switches": "for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', "
    "'/sys/kernel/uevent_helper'):\n tried(open, path, 'wb')",
    "its own limits": "import glob\nfor path in glob.glob('/sys/fs/cgroup/**/memory.limit_in_bytes', recursive=True)"
    " + glob.glob('/sys/fs/cgroup/memory.max'):\n tried(open, path, 'wb')",
    "a core dump": "import resource\nif resource.getrlimit(resource.RLIMIT_CORE) != (0, 0): got('cores')",
    "the host's clock": "tried(time.clock_settime, time.CLOCK_REALTIME, 0)",
    "the host's name": "tried(socket.sethostname, 'owned')",
    "signals to others": "tried(os.kill, known['pid'], 0)",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_is_contained(field: Battlefield, attack: str) -> None:
    said = field.attack(f"a{list(ATTACKS).index(attack)}", ATTACKS[attack] + "\nprint('tried it all')")
    assert "tried it all" in said, said
    assert "BREACH" not in said, said
    assert field.secret not in said


def test_nobody_was_harmed(field: Battlefield) -> None:
    field.assert_unharmed()


PLANTED = {
    "a symbolic link to another's file": "os.symlink(known['file'], 'out')",
    "a symbolic link to the host's secrets": "os.symlink('/etc/shadow', 'out')",
    "a symbolic link up and down": "os.symlink('../../../%(user)s/%(job)s/1/f' % known, 'out')",
    "a pipe": "os.mkfifo('out')",
    "a directory that is a link": "os.symlink('/etc', 'out')",
}


@pytest.mark.parametrize("plant", PLANTED)
def test_what_is_planted_for_jobd_to_read_is_not_followed(field: Battlefield, plant: str) -> None:
    job = f"p{list(PLANTED).index(plant)}"
    assert "planted" in field.attack(job, PLANTED[plant] + "\nprint('planted')")
    with field.daemon.http() as http:
        for path in ("out", "out/passwd", "out/shadow"):
            reply = http.get(f"/v1/users/mallory/jobs/{job}/files/{path}", timeout=30)
            assert reply.status_code == 404, (path, reply.text[:200])
        listing = http.get(f"/v1/users/mallory/jobs/{job}/files").json()
    assert all(file["path"] != "out" for file in listing["files"])
