#include "emit/confine.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- seccomp: a list of what fails ------------------------------------------------------------------------------
 * A list of what is allowed would have to follow every version of libc and Python; this one must follow the kernel
 * only: numbers that are newer than the list do not exist for the child (libc falls back on what it did before). */

enum { NEWER_THAN_THIS_LIST = 452 }; /* one numbering for all architectures since 424 */

static const int denied[] = {
    /* network */
    SYS_socket,
    SYS_socketpair,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_sendto,
    SYS_sendmsg,
    SYS_sendmmsg,
    SYS_setsockopt,
    /* other processes */
    SYS_kill,
    SYS_tkill,
    SYS_tgkill,
    SYS_rt_sigqueueinfo,
    SYS_rt_tgsigqueueinfo,
    SYS_pidfd_open,
    SYS_pidfd_getfd,
    SYS_pidfd_send_signal,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_kcmp,
    SYS_execveat,
    SYS_setpriority,
    SYS_sched_setscheduler,
    SYS_sched_setparam,
    SYS_sched_setattr,
    SYS_shmget,
    SYS_shmat,
    SYS_shmctl,
    SYS_msgget,
    SYS_msgctl,
    SYS_semget,
    SYS_semctl,
    SYS_mq_open,
    SYS_mq_unlink,
    /* names and contents of files; opening for writing is judged by its flags */
    SYS_unlinkat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_mkdirat,
    SYS_mknodat,
    SYS_truncate,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_fchmod,
    SYS_fchmodat,
    SYS_fchown,
    SYS_fchownat,
    SYS_utimensat,
    SYS_setxattr,
    SYS_lsetxattr,
    SYS_fsetxattr,
    SYS_removexattr,
    SYS_lremovexattr,
    SYS_fremovexattr,
    SYS_copy_file_range,
    SYS_memfd_create,
    SYS_inotify_init1,
    SYS_fanotify_init,
    SYS_name_to_handle_at,
    SYS_open_by_handle_at,
    SYS_flock,
    /* namespaces, mounts, the machine */
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_unshare,
    SYS_setns,
    SYS_open_tree,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_swapon,
    SYS_swapoff,
    SYS_reboot,
    SYS_kexec_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_acct,
    SYS_quotactl,
    SYS_syslog,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    SYS_adjtimex,
    SYS_vhangup,
    SYS_personality,
    /* identities and keys */
    SYS_setuid,
    SYS_setgid,
    SYS_setreuid,
    SYS_setregid,
    SYS_setresuid,
    SYS_setresgid,
    SYS_setfsuid,
    SYS_setfsgid,
    SYS_setgroups,
    SYS_capset,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    /* large pieces of kernel that no script needs */
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_io_setup,
    SYS_lookup_dcookie,
#ifdef SYS_renameat
    SYS_renameat,
#endif
#ifdef SYS_mount_setattr
    SYS_mount_setattr,
#endif
#ifdef SYS_kexec_file_load
    SYS_kexec_file_load,
#endif
#ifdef SYS_open /* x86-64 also has the calls of old */
    SYS_creat,
    SYS_fork,
    SYS_vfork,
    SYS_unlink,
    SYS_rename,
    SYS_link,
    SYS_symlink,
    SYS_mkdir,
    SYS_rmdir,
    SYS_mknod,
    SYS_chmod,
    SYS_chown,
    SYS_lchown,
    SYS_utime,
    SYS_utimes,
    SYS_futimesat,
    SYS_inotify_init,
    SYS_iopl,
    SYS_ioperm,
    SYS_modify_ldt,
#endif
};

static void emit(struct confine *c, struct sock_filter op)
{
    if (c->filter_n < CONFINE_FILTER_MAX)
        c->filter[c->filter_n++] = op;
}

#define OP(code, k)            ((struct sock_filter)BPF_STMT((code), (uint32_t)(k)))
#define TEST(code, k, yes, no) ((struct sock_filter)BPF_JUMP(BPF_JMP | (code) | BPF_K, (uint32_t)(k), (yes), (no)))

/* Words of struct seccomp_data; both architectures are little-endian, so the low half of an argument comes first. */
static void load(struct confine *c, size_t off) { emit(c, OP(BPF_LD | BPF_W | BPF_ABS, off)); }
static void load_nr(struct confine *c) { load(c, offsetof(struct seccomp_data, nr)); }
static void load_low(struct confine *c, unsigned arg) { load(c, offsetof(struct seccomp_data, args) + arg * 8); }
static void load_high(struct confine *c, unsigned arg) { load(c, offsetof(struct seccomp_data, args) + arg * 8 + 4); }
static void fail_with(struct confine *c, int code) { emit(c, OP(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (uint32_t)code)); }

static void deny(struct confine *c, int nr, int code)
{
    emit(c, TEST(BPF_JEQ, nr, 0, 1));
    fail_with(c, code);
}

/* Fails when any (or none) of the bits is set in an argument. */
static void deny_by_bits(struct confine *c, int nr, unsigned arg, unsigned bits, int when_set)
{
    emit(c, TEST(BPF_JEQ, nr, 0, 4));
    load_low(c, arg);
    emit(c, when_set ? TEST(BPF_JSET, bits, 0, 1) : TEST(BPF_JSET, bits, 1, 0));
    fail_with(c, EPERM);
    load_nr(c);
}

static void deny_unless_equal(struct confine *c, int nr, unsigned arg, uint64_t value)
{
    emit(c, TEST(BPF_JEQ, nr, 0, 6));
    load_low(c, arg);
    emit(c, TEST(BPF_JEQ, value & 0xffffffffu, 0, 2));
    load_high(c, arg);
    emit(c, TEST(BPF_JEQ, value >> 32, 1, 0));
    fail_with(c, EPERM);
    load_nr(c);
}

#if defined(__x86_64__)
enum { ARCH = (int)AUDIT_ARCH_X86_64 };
#elif defined(__aarch64__)
enum { ARCH = (int)AUDIT_ARCH_AARCH64 };
#else
enum { ARCH = 0 };
#endif

static void make_filter(struct confine *c, const char *program)
{
    const unsigned writing = O_ACCMODE | O_CREAT | O_TRUNC;

    c->filter_n = 0;
    load(c, offsetof(struct seccomp_data, arch));
    emit(c, TEST(BPF_JEQ, ARCH, 1, 0));
    emit(c, OP(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)); /* a 32-bit call: other numbers */
    load_nr(c);
    emit(c, TEST(BPF_JGE, NEWER_THAN_THIS_LIST, 0, 1)); /* x32 calls are above it, too */
    fail_with(c, ENOSYS);
    deny(c, SYS_openat2, ENOSYS); /* its flags stand in memory, where a filter cannot look: */
    deny(c, SYS_clone3, ENOSYS);  /* libc then uses the older call */
    for (size_t i = 0; i < sizeof denied / sizeof *denied; i++)
        deny(c, denied[i], EPERM);
    deny_by_bits(c, SYS_openat, 2, writing, 1);
#ifdef SYS_open
    deny_by_bits(c, SYS_open, 1, writing, 1);
#endif
    deny_by_bits(c, SYS_clone, 0, CLONE_THREAD, 0);
    deny_unless_equal(c, SYS_prlimit64, 0, 0);
    deny_unless_equal(c, SYS_execve, 0, (uintptr_t)program);
    emit(c, OP(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
}

void confine_prepare(struct confine *c, unsigned cpu_seconds, uint64_t memory, const char *program)
{
    *c = (struct confine){ .cpu_seconds = cpu_seconds, .memory = memory };
    if (ARCH)
        make_filter(c, program);
    if (c->filter_n == CONFINE_FILTER_MAX) /* cut off: would end without a verdict */
        c->filter_n = 0;
}

static void filter_self(const struct confine *c)
{
    struct sock_fprog prog = { .len = (unsigned short)c->filter_n, .filter = (struct sock_filter *)c->filter };

    if (c->filter_n)
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0);
}

/* ---- Landlock --------------------------------------------------------------------------------------------------- */

/* The kernel's structure as of version 6; older kernels take a shorter one. */
struct ruleset {
    uint64_t fs, net, scoped;
};

static const struct {
    int since; /* version of the interface */
    uint64_t fs, net, scoped;
    size_t size;
} landlock_rights[] = {
    { 1,
      LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
          LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
          LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
          LANDLOCK_ACCESS_FS_MAKE_SYM,
      0, 0, 8 },
    { 2, 1ull << 13, 0, 0, 8 },  /* moving between directories */
    { 3, 1ull << 14, 0, 0, 8 },  /* truncating */
    { 4, 0, 3, 0, 16 },          /* TCP: bind, connect */
    { 5, 1ull << 15, 0, 0, 16 }, /* ioctl on devices */
    { 6, 0, 0, 3, 24 },          /* abstract sockets and signals to the outside */
};

/* Rights that a ruleset handles and no rule grants are gone. */
static void landlock_self(void)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct ruleset all = { 0, 0, 0 };
    size_t size = 0;
    long fd;

    for (size_t i = 0; i < sizeof landlock_rights / sizeof *landlock_rights; i++)
        if (version >= landlock_rights[i].since) {
            all.fs |= landlock_rights[i].fs;
            all.net |= landlock_rights[i].net;
            all.scoped |= landlock_rights[i].scoped;
            size = landlock_rights[i].size;
        }
    fd = size ? syscall(SYS_landlock_create_ruleset, &all, size, 0) : -1;
    if (fd >= 0) {
        syscall(SYS_landlock_restrict_self, fd, 0);
        close((int)fd);
    }
}

/* ---- limits and rights ------------------------------------------------------------------------------------------ */

/* Never above what we have ourselves. */
static int limit(__rlimit_resource_t what, uint64_t soft, uint64_t hard)
{
    struct rlimit have;

    if (getrlimit(what, &have))
        return -1;
    if (have.rlim_max > hard)
        have.rlim_max = hard;
    have.rlim_cur = have.rlim_max < soft ? have.rlim_max : soft;
    return setrlimit(what, &have);
}

/* After the exec root has what stands in the bounding set: reading any file, since the interpreter may be another's. */
static void drop_rights(void)
{
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    for (int cap = 0; cap < 64; cap++)
        if (cap != CAP_DAC_READ_SEARCH)
            prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
}

int confine_self(const struct confine *c)
{
    drop_rights();
    landlock_self();
    if (limit(RLIMIT_CORE, 0, 0) || limit(RLIMIT_FSIZE, 0, 0) ||
        limit(RLIMIT_CPU, c->cpu_seconds, c->cpu_seconds + 1) || /* SIGXCPU, then SIGKILL */
        limit(RLIMIT_AS, c->memory, c->memory))
        return -1;
    filter_self(c);
    return 0;
}
