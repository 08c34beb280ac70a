/* SPDX-License-Identifier: MIT */
/*
 * PID 1 of a session: starts one command, reaps what is orphaned, and tells Roost exactly how the command ended.
 *
 * nspawn's own stub (--as-pid2) reports every death by a signal as exit status 255, so that the signal is lost. This
 * program is bind-mounted into the container; it is static, hence runs in any tree, of any libc or none.
 *
 *   roost-init USER DIRECTORY TERMINAL CAPABILITIES COMMAND [ARGUMENT...]
 *   roost-init --boot [CONTROLLER...]
 *
 * The second is PID 1 of a machine that boots: it fills /run with what it is given, as the machine's root, to whom nspawn's
 * own directories there would not belong, and becomes the machine's init.
 *
 * USER is a name of the container's /etc/passwd or a number, DIRECTORY is empty for the user's home (or /), TERMINAL is 1 when
 * the standard streams are nspawn's console, else 0; 2 more when the network has to be made first; 4 more when an emulator has to
 * be registered, which --boot does when there is one. CAPABILITIES is the bounding set that is left, as a hexadecimal mask.
 *
 * The environment is what nspawn sets, and NAME=VALUE strings, each ended by a zero byte, in /run/roost-environment.
 *
 * Descriptors (passed by nspawn as LISTEN_FDS): 3 a SOCK_SEQPACKET socket to Roost; without a terminal also 4, 5, 6,
 * which become the command's standard streams, so that nspawn's own messages never mix with the command's output.
 *
 * With --exec it is no PID 1: it starts a command in a machine that runs already, and stays outside to watch it.
 *
 *   roost-init --exec NAMESPACES NO_NEW_PRIVILEGES USER DIRECTORY TERMINAL CAPABILITIES COMMAND [ARGUMENT...]
 *
 * NAMESPACES are the flags of setns(2) as a hexadecimal mask, NO_NEW_PRIVILEGES and TERMINAL are 0 or 1. The environment is its
 * own. Further descriptors: 7 a pidfd of the machine's init, 8 cgroup.kill of the group that it is in. To Roost, with TERMINAL:
 * 'T' and, with SCM_RIGHTS, the master of a terminal that was made in the machine; the answer is a byte CONNECTED.
 *
 * To Roost: 'N' with a descriptor of the network namespace, first of all where TERMINAL says so; the answer is a byte CONNECTED.
 * 'E' + text: the command could not be started, status follows. 'X' + struct ended: it ended; the last packet.
 * From Roost: one byte: the number of a signal for every process in the container (--exec: of the command's process group). End of file: Roost is gone, so stop.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GIVEN "/run/roost-given" /* roost.boot.settings */

enum { CONTROL = 3, STREAMS = 4, PIDFD = 7, KILL_GROUP = 8, FIRST_UNUSED = 9, MAX_GROUPS = 256, LINE = 65536, LIST_MOST = 1 << 20, SETUP_FAILED = 125, CONNECTED = 255 };

struct ended { /* native byte order; roost.engine.execute unpacks it */
    int32_t status; /* as wait(2) has it */
    int32_t unused;
    uint64_t user_usec, system_usec, max_rss_kib;
    uint64_t began_usec, ended_usec; /* CLOCK_MONOTONIC */
};

struct account {
    uid_t uid;
    gid_t gid;
    char name[256], home[PATH_MAX], shell[PATH_MAX];
    gid_t groups[MAX_GROUPS];
    int n_groups;
};

static void tell(const char *format, ...) {
    char text[2048] = "E";
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text + 1, sizeof text - 1, format, arguments);
    va_end(arguments);
    (void) !send(CONTROL, text, strlen(text), MSG_NOSIGNAL);
}

/* What tells of the host, or acts on it, and nspawn leaves open: the paths that podman and moby hide by default. */
static const char *const hidden[] = {
    "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/sched_debug",
    "/proc/scsi", "/proc/sysrq-trigger", "/proc/timer_list", "/proc/timer_stats", "/sys/dev/block", "/sys/devices/virtual/powercap",
    "/sys/firmware", "/sys/fs/selinux",
};

/* Puts /dev/null above each file and an empty directory above each directory. One that has been removed stays empty, and a
 * mount of it costs a fifth of a new file system's. */
static int hide_paths(void) {
    const char *empty = "/run/roost-empty";
    int result = mkdir(empty, 0555);

    if (result == 0) /* nspawn's own mounts in /proc are its peers: what goes above one would go below it as well */
        result = mount(NULL, "/proc", NULL, MS_PRIVATE, NULL);
    if (result < 0)
        tell("cannot hide what /proc and /sys tell: %s", strerror(errno));
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden && result == 0; i++) {
        struct stat info;
        if (lstat(hidden[i], &info) == 0 &&
            (result = mount(S_ISDIR(info.st_mode) ? empty : "/dev/null", hidden[i], NULL, MS_BIND, NULL)) < 0)
            tell("cannot hide %s: %s", hidden[i], strerror(errno));
    }
    rmdir(empty);
    return result;
}

/* Has programs of another processor run by the emulator at /run/roost-emulator: in this user namespace alone, which has a
 * binfmt_misc of its own since Linux 6.7, for as long as that is mounted. Nothing to be done is no failure. */
static int register_emulator(void) {
    static char line[2048];
    const char *place = "/proc/sys/fs/binfmt_misc";
    unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    int in = open("/run/roost-binfmt", O_RDONLY | O_CLOEXEC), out;
    ssize_t n;

    if (in < 0)
        return errno == ENOENT ? 0 : -1;
    n = read(in, line, sizeof line);
    close(in);
    if (n == 0) /* the host's own runs them: an empty one would hide that */
        return 0;
    if (n < 0 || mount("binfmt_misc", place, "binfmt_misc", flags, NULL) < 0)
        return -1;
    if ((out = open("/proc/sys/fs/binfmt_misc/register", O_WRONLY | O_CLOEXEC)) < 0)
        return -1;
    if (write(out, line, (size_t) n) != n) {
        close(out);
        return -1;
    }
    close(out);
    return mount(NULL, place, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL); /* as all of /proc/sys is */
}

/* Leaves this process, and all that it starts, no more than the capabilities in `mask`. */
static int drop_capabilities(uint64_t mask) {
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {0};
    for (int capability = 0; capability < 64; capability++) {
        int has = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);
        if (has < 0) /* past the kernel's last */
            break;
        if (has && !(mask >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0)
            return -1;
    }
    if (syscall(SYS_capget, &header, data) < 0)
        return -1;
    for (int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
        data[i].permitted &= (uint32_t) (mask >> (32 * i));
        data[i].effective = data[i].permitted;
        data[i].inheritable = 0; /* or a file's inheritable ones would become a user's: CVE-2022-24769 */
    }
    return (int) syscall(SYS_capset, &header, data);
}

/* Splits a line at ':' in place; returns the number of fields. */
static int split(char *line, char **fields, int most) {
    int n = 0;
    line[strcspn(line, "\n")] = 0;
    while (n < most) {
        fields[n++] = line;
        if (!(line = strchr(line, ':')))
            break;
        *line++ = 0;
    }
    return n;
}

static int number(const char *text, unsigned long *value) {
    char *end;
    errno = 0;
    *value = strtoul(text, &end, 10);
    return *text >= '0' && *text <= '9' && !*end && !errno && *value < 65536;
}

/* A tree may hold anything there: a pipe or a device would be read for ever, and so would a file without end. */
static FILE *open_list(const char *path) {
    struct stat about;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return NULL;
    if (fstat(fd, &about) < 0 || !S_ISREG(about.st_mode)) {
        close(fd);
        return NULL;
    }
    return fdopen(fd, "r");
}

/* The next line of at most LIST_MOST bytes of a list; a longer line than LINE comes in pieces. */
static char *next_line(char *line, int size, FILE *file) {
    return ftell(file) < LIST_MOST ? fgets(line, size, file) : NULL;
}

/* Fills in an account from /etc/passwd and /etc/group: no NSS, which a static program cannot have in a foreign tree. */
static int look_up(const char *wanted, struct account *a) {
    static char line[LINE];
    char *f[7], *member, *rest;
    unsigned long id = 0, value;
    int by_number = number(wanted, &id), found = 0;
    FILE *file = open_list("/etc/passwd");

    while (file && next_line(line, sizeof line, file)) {
        if (split(line, f, 7) < 7 || !number(f[2], &value))
            continue;
        if (by_number ? value != id : strcmp(f[0], wanted) != 0)
            continue;
        a->uid = (uid_t) value;
        a->gid = number(f[3], &value) ? (gid_t) value : 65534;
        snprintf(a->name, sizeof a->name, "%s", f[0]);
        snprintf(a->home, sizeof a->home, "%s", f[5]);
        snprintf(a->shell, sizeof a->shell, "%s", f[6]);
        found = 1;
        break;
    }
    if (file)
        fclose(file);
    if (!found) {
        if (!by_number && strcmp(wanted, "root") != 0)
            return 0;
        a->uid = (uid_t) id; /* root, or a number that has no name */
        a->gid = (gid_t) id;
        snprintf(a->name, sizeof a->name, "%s", wanted);
    }
    if (!a->home[0])
        snprintf(a->home, sizeof a->home, "%s", a->uid ? "/" : "/root");
    a->groups[a->n_groups++] = a->gid;
    file = open_list("/etc/group");
    while (file && next_line(line, sizeof line, file)) {
        if (split(line, f, 4) < 4 || !number(f[2], &value))
            continue;
        for (member = strtok_r(f[3], ",", &rest); member; member = strtok_r(NULL, ",", &rest))
            if (strcmp(member, a->name) == 0 && a->n_groups < MAX_GROUPS && (gid_t) value != a->gid)
                a->groups[a->n_groups++] = (gid_t) value;
    }
    if (file)
        fclose(file);
    return 1;
}

/* Adds what Roost was asked to set; by a file, as others can read command lines. */
static int read_environment(void) {
    static char *item;
    static size_t size;
    FILE *file = fopen("/run/roost-environment", "re");

    if (!file)
        return -1;
    while (getdelim(&item, &size, 0, file) > 0) {
        char *value = strchr(item, '=');
        if (!value)
            continue;
        *value = 0;
        if (setenv(item, value + 1, 1) < 0)
            return -1;
    }
    fclose(file);
    return 0;
}

/* What the account says; with `given`, only where the environment does not say it already. */
static void clean_environment(const struct account *a, int given) {
    const char *ours[] = {"LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET", "SYSTEMD_SECCOMP", NULL};
    for (const char **name = ours; *name; name++)
        unsetenv(*name);
    setenv("HOME", a->home, !given);
    setenv("USER", a->name, !given);
    setenv("LOGNAME", a->name, !given);
    if (a->shell[0])
        setenv("SHELL", a->shell, !given);
}

static int enter_directory(const char *directory, const struct account *a) {
    if (directory[0])
        return chdir(directory);
    return chdir(a->home) < 0 ? chdir("/") : 0;
}

/* In the child: becomes the command, or says why not and ends as a shell would. `entered`: the machine has another init. */
static void become(char **argv, const char *user, const char *directory, int terminal, int entered) {
    static struct account account;
    static char here[PATH_MAX];
    sigset_t none;

    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (setsid() < 0 || (terminal && ioctl(STDIN_FILENO, TIOCSCTTY, 0) < 0 && errno != EPERM))
        tell("cannot start a session: %s", strerror(errno));
    if (!terminal)
        for (int i = 0; i < 3; i++)
            if (dup2(STREAMS + i, i) < 0)
                _exit(SETUP_FAILED);
    if (!look_up(user, &account)) {
        tell("no user %s in the machine's /etc/passwd", user);
        _exit(SETUP_FAILED);
    }
    clean_environment(&account, entered);
    if (!entered && read_environment() < 0) {
        tell("cannot read the environment: %s", strerror(errno));
        _exit(SETUP_FAILED);
    }
    if (entered && terminal)
        (void) !fchown(STDIN_FILENO, account.uid, (gid_t) -1); /* as login(1) does */
    if (setgroups((size_t) account.n_groups, account.groups) < 0 || setresgid(account.gid, account.gid, account.gid) < 0 ||
        setresuid(account.uid, account.uid, account.uid) < 0) {
        tell("cannot become user %s: %s", user, strerror(errno));
        _exit(SETUP_FAILED);
    }
    if (entered) /* only now: the kernel forgets it whenever the user changes */
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (enter_directory(directory, &account) < 0) {
        tell("cannot change to the directory %s: %s", directory, strerror(errno));
        _exit(SETUP_FAILED);
    }
    if (entered && (!getcwd(here, sizeof here) || here[0] != '/')) { /* CVE-2024-21626: a way to a directory of the host */
        tell("the directory %s is not in the machine", directory);
        _exit(SETUP_FAILED);
    }
    if (!terminal)
        for (int i = STREAMS; i < STREAMS + 3; i++)
            close(i);
    fcntl(CONTROL, F_SETFD, FD_CLOEXEC);
    execvp(argv[0], argv);
    int code = errno;
    dprintf(STDERR_FILENO, "roost: %s: %s\n", argv[0], code == ENOENT && !strchr(argv[0], '/') ? "command not found" : strerror(code));
    _exit(code == ENOENT ? 127 : 126);
}

static uint64_t now_usec(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t) now.tv_sec * 1000000u + (uint64_t) now.tv_nsec / 1000u;
}

static void report(int status, const struct rusage *used, uint64_t began) {
    struct {
        char tag[8];
        struct ended ended;
    } packet = {"X", {.status = status}};
    packet.ended.user_usec = (uint64_t) used->ru_utime.tv_sec * 1000000u + (uint64_t) used->ru_utime.tv_usec;
    packet.ended.system_usec = (uint64_t) used->ru_stime.tv_sec * 1000000u + (uint64_t) used->ru_stime.tv_usec;
    packet.ended.max_rss_kib = (uint64_t) used->ru_maxrss;
    packet.ended.began_usec = began;
    packet.ended.ended_usec = now_usec();
    (void) !send(CONTROL, &packet, sizeof packet, MSG_NOSIGNAL);
}

/* Reaps until `child` has ended; its wait status is then in *status. */
static int reap(pid_t child, int *status, struct rusage *used) {
    pid_t pid;
    while ((pid = wait4(-1, status, WNOHANG, used)) > 0)
        if (pid == child)
            return 1;
    return 0;
}

/* Roost is gone: nothing that was started for it goes on. */
static int abandon(pid_t child, int entered) {
    if (entered) {
        kill(-child, SIGKILL);
        (void) !write(KILL_GROUP, "1", 1); /* us too */
    }
    return SETUP_FAILED; /* as PID 1 ends, so does everything else here */
}

static int supervise(pid_t child, int signals, uint64_t began, int entered) {
    struct pollfd watched[] = {{.fd = signals, .events = POLLIN}, {.fd = CONTROL, .events = POLLIN}};
    for (;;) {
        int status;
        struct rusage used;
        struct signalfd_siginfo info;
        unsigned char signal_number;

        if (reap(child, &status, &used)) {
            report(status, &used, began);
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        if (poll(watched, 2, -1) < 0 && errno != EINTR)
            return abandon(child, entered);
        if (watched[0].revents & POLLIN)
            (void) !read(signals, &info, sizeof info);
        if (watched[1].revents) {
            ssize_t n = recv(CONTROL, &signal_number, 1, MSG_DONTWAIT);
            if (n == 1)
                kill(entered ? -child : -1, signal_number);
            else if (n == 0 || (errno != EAGAIN && errno != EINTR))
                return abandon(child, entered);
        }
    }
}

/* Gives Roost a descriptor. */
static int show(char tag, int fd) {
    union {
        char room[CMSG_SPACE(sizeof(int))];
        struct cmsghdr head;
    } rights = {.head = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))}};
    struct iovec what = {.iov_base = &tag, .iov_len = 1};
    struct msghdr message = {.msg_iov = &what, .msg_iovlen = 1, .msg_control = &rights, .msg_controllen = sizeof rights};

    memcpy(CMSG_DATA(&rights.head), &fd, sizeof fd);
    return sendmsg(CONTROL, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* Shows Roost the network namespace, and waits until it has put a network into it. */
static int await_network(void) {
    unsigned char answer = 0;
    int fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

    if (fd < 0 || show('N', fd) < 0)
        return -1;
    close(fd);
    return recv(CONTROL, &answer, 1, 0) == 1 && answer == CONNECTED ? 0 : -1; /* anything else: an end is wanted */
}

static int copy_file(const char *from, const char *to, const struct stat *info) {
    static char block[65536];
    ssize_t n;
    int in = open(from, O_RDONLY | O_CLOEXEC), out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, info->st_mode & 0777);

    if (in < 0 || out < 0)
        return -1;
    while ((n = read(in, block, sizeof block)) > 0)
        if (write(out, block, (size_t) n) != n)
            return -1;
    close(in);
    return n < 0 ? -1 : close(out);
}

/* Copies what is in `from`, which Roost has made, to the same places below /run, a file system that is new. */
static int give(const char *path, const struct stat *info, int kind, struct FTW *at) {
    char to[PATH_MAX], link[PATH_MAX];
    ssize_t n;

    snprintf(to, sizeof to, "/run%s", path + strlen(GIVEN));
    (void) at;
    if (kind == FTW_D)
        return mkdir(to, 0755) < 0 && errno != EEXIST ? -1 : 0;
    if (kind == FTW_SL || kind == FTW_SLN) {
        if ((n = readlink(path, link, sizeof link - 1)) < 0)
            return -1;
        link[n] = 0;
        return symlink(link, to);
    }
    return kind == FTW_F ? copy_file(path, to, info) : 0;
}

/* nspawn shows control groups of v1 read-only. These are the machine's own, for the limits of what it runs. */
static void own_controllers(char **names) {
    char path[PATH_MAX];

    for (; *names; names++) {
        snprintf(path, sizeof path, "/sys/fs/cgroup/%s", *names);
        if (mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
            dprintf(STDERR_FILENO, "roost: %s stays read-only: %s\n", path, strerror(errno));
    }
}

static int boot(char **controllers) {
    static const char *const inits[] = {"/usr/lib/systemd/systemd", "/lib/systemd/systemd", "/sbin/init"};
    umask(022);
    if (nftw(GIVEN, give, 16, FTW_PHYS) < 0 && errno != ENOENT) /* it boots all the same */
        dprintf(STDERR_FILENO, "roost: /run is not filled: %s\n", strerror(errno));
    own_controllers(controllers);
    if (register_emulator() < 0)
        dprintf(STDERR_FILENO, "roost: no emulator can be registered with the machine's own binfmt_misc: %s\n", strerror(errno));
    for (size_t i = 0; i < sizeof inits / sizeof *inits; i++)
        execl(inits[i], i < 2 ? "systemd" : "init", (char *) NULL);
    dprintf(STDERR_FILENO, "roost: no init can be started: %s\n", strerror(errno));
    return SETUP_FAILED;
}

/* Starts the command, and stays until it has ended. `entered`: in a machine that has another init. */
static int start(char **argv, const char *user, const char *directory, int terminal, int entered) {
    sigset_t all;
    uint64_t began;
    int signals;
    pid_t child;

    sigfillset(&all);
    signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
    began = now_usec();
    child = signals < 0 ? -1 : fork();
    if (child < 0) {
        tell("cannot start a process: %s", strerror(errno));
        return SETUP_FAILED;
    }
    if (child == 0) {
        if (entered)
            close(KILL_GROUP);
        close(signals);
        become(argv, user, directory, terminal, entered);
    }
    if (terminal && entered)
        for (int i = 0; i < 3; i++)
            close(i);
    if (!terminal) /* the streams end when the command's last process has closed them, not when we end */
        for (int i = STREAMS; i < STREAMS + 3; i++)
            close(i);
    return supervise(child, signals, began, entered);
}

/* Makes a terminal in the machine: Roost gets its master, and our standard streams are its other end. What has the path may be
 * anything: only a terminal of the kernel's own file system for them will do. */
static int make_terminal(void) {
    struct stat about;
    struct statfs system;
    unsigned char answer = 0;
    int locked = 0, slave;
    int master = open("/dev/pts/ptmx", O_RDWR | O_NOCTTY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

    if (master < 0 || fstat(master, &about) < 0 || fstatfs(master, &system) < 0)
        return -1;
    errno = ENODEV;
    if (!S_ISCHR(about.st_mode) || about.st_rdev != makedev(5, 2) || system.f_type != DEVPTS_SUPER_MAGIC)
        return -1;
    if (ioctl(master, TIOCSPTLCK, &locked) < 0 || (slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) < 0)
        return -1;
    if (show('T', master) < 0 || recv(CONTROL, &answer, 1, 0) != 1 || answer != CONNECTED) /* until it has its size */
        return -1;
    close(master);
    for (int i = 0; i < 3; i++)
        if (dup2(slave, i) < 0)
            return -1;
    close(slave);
    return 0;
}

/* Joins the machine, with no more rights than its init has and with nothing else of the caller's. Nobody in the machine sees
 * this process, which stays in the pid namespace that it was in. */
static int enter(int namespaces, int no_new_privileges, uint64_t capabilities) {
    struct rlimit files;

    prctl(PR_SET_DUMPABLE, 0);
    if (syscall(SYS_close_range, FIRST_UNUSED, ~0U, 0) < 0)
        for (int fd = FIRST_UNUSED; fd < 1024; fd++)
            close(fd);
    syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL); /* where a filter refuses it, it refuses the use of keys too */
    umask(022);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur > 1024) { /* an init has raised its own: what it starts has this */
        files.rlim_cur = 1024;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    if (setns(PIDFD, namespaces) < 0) {
        tell("cannot join the machine: %s", strerror(errno));
        return -1;
    }
    close(PIDFD);
    if (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0 || chdir("/") < 0) {
        tell("cannot become the machine's root: %s", strerror(errno));
        return -1;
    }
    prctl(PR_SET_DUMPABLE, 0); /* again: it depends on the user */
    if (drop_capabilities(capabilities) < 0 || (no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)) {
        tell("cannot drop capabilities: %s", strerror(errno));
        return -1;
    }
    return 0;
}

/* roost-init --exec: see the top. */
static int exec_inside(int argc, char **argv) {
    sigset_t all;
    int terminal;

    if (argc < 9)
        return SETUP_FAILED;
    terminal = argv[6][0] == '1';
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_NAME, "roost-exec");
    setsid();
    if (enter((int) strtoul(argv[2], NULL, 16), argv[3][0] == '1', strtoull(argv[7], NULL, 16)) < 0)
        return SETUP_FAILED;
    if (terminal && make_terminal() < 0) {
        tell("cannot make a terminal in the machine's /dev/pts: %s", strerror(errno));
        return SETUP_FAILED;
    }
    return start(argv + 8, argv[4], argv[5], terminal, 1);
}

int main(int argc, char **argv) {
    sigset_t all;
    int terminal;

    if (argc == 2 && strcmp(argv[1], "--pause") == 0) { /* for reading nspawn's seccomp filters from outside */
        (void) !write(STDOUT_FILENO, "ready\n", 6);
        for (;;)
            pause();
    }
    if (argc >= 2 && strcmp(argv[1], "--boot") == 0)
        return boot(argv + 2);
    if (argc > 1 && strcmp(argv[1], "--exec") == 0)
        return exec_inside(argc, argv);
    if (argc < 6) {
        dprintf(STDERR_FILENO, "usage: roost-init USER DIRECTORY TERMINAL CAPABILITIES COMMAND [ARGUMENT...]\n");
        return SETUP_FAILED;
    }
    terminal = (argv[3][0] - '0') & 1;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    prctl(PR_SET_NAME, "roost-init");
    if (terminal) /* let go of the console, so that the command's own session can have it for job control */
        ioctl(STDIN_FILENO, TIOCNOTTY);
    if ((argv[3][0] - '0') & 2 && await_network() < 0)
        return SETUP_FAILED;
    if (hide_paths() < 0)
        return SETUP_FAILED;
    if ((argv[3][0] - '0') & 4 && register_emulator() < 0) {
        tell("cannot register an emulator with the session's own binfmt_misc, which Linux 6.7 has: %s", strerror(errno));
        return SETUP_FAILED;
    }
    if (drop_capabilities(strtoull(argv[4], NULL, 16)) < 0) {
        tell("cannot drop capabilities: %s", strerror(errno));
        return SETUP_FAILED;
    }
    return start(argv + 5, argv[1], argv[2], terminal, 0);
}
