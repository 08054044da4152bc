/* Notes what a power failure would leave of the files in one directory: preloaded into the processes that write there.

   RACK_POWER_PLACE is the directory, RACK_POWER_SHADOW another one on the same file system. In that:

   lock       a flock on it is held around each step below; whoever stops or kills these processes takes it first
   events     a line for each thing done: the position of a line is the time it was done at
   INO.live   a link to the file, so that its inode stays and can be read, whatever happens to its name
   INO.pages  what is surely on the disk: the file as of its last sync, page by page
   INO.when   for each page, the position of the event that put it there, and 1 (8 bytes; 0: never)

   Syncs are not passed on: nothing here needs the disk. They do wait a little, at random, for a disk is slow: so the
   moment before a sync is a moment like others. sync_file_range(2), sync(2) and files opened with O_DSYNC promise
   nothing here, which is stricter than the truth. A file that fsync has not been told of may be as if it never were,
   even if it was synced itself, until its directory is. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define CHUNK (16 * PAGE)

static const char *place, *shadow;
static size_t place_length;
static struct stat place_status;
static long slowness; /* a sync waits up to so many microseconds */

__attribute__((constructor)) static void begin(void) {
    const char *slow = getenv("RACK_POWER_SLOWNESS");
    place = getenv("RACK_POWER_PLACE");
    shadow = getenv("RACK_POWER_SHADOW");
    if (!place || !shadow || stat(place, &place_status))
        return;
    slowness = slow ? atol(slow) : 0;
    place_length = strlen(place);
}

static void die(const char *what) {
    dprintf(2, "power failure shim: %s: %s\n", what, strerror(errno));
    abort();
}

static int real_open(const char *path, int flags, mode_t mode) {
    return syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
}

/* Unlocked by hand before it is closed: a child forked meanwhile has a copy of the descriptor, and so of the lock. */
static int take(void) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/lock", shadow);
    int fd = real_open(path, O_RDWR | O_CREAT, 0666);
    if (fd < 0 || flock(fd, LOCK_EX))
        die("lock");
    return fd;
}

static void give(int fd) {
    flock(fd, LOCK_UN);
    close(fd);
}

static int open_shadow(ino_t inode, const char *kind, int flags) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%lu.%s", shadow, (unsigned long)inode, kind);
    return real_open(path, flags, 0666);
}

/* Write a line to the events; return its position. */
static uint64_t note(const char *format, ...) {
    char path[PATH_MAX], line[2 * PATH_MAX];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    snprintf(path, sizeof path, "%s/events", shadow);
    int fd = real_open(path, O_WRONLY | O_CREAT, 0666);
    off_t position = lseek(fd, 0, SEEK_END);
    if (fd < 0 || write(fd, line, length) != length)
        die("events");
    close(fd);
    return position;
}

static const char *name_in_place(const char *path) {
    if (!place_length || strncmp(path, place, place_length) || path[place_length] != '/')
        return NULL;
    const char *name = path + place_length + 1;
    return *name && !strchr(name, '/') ? name : NULL;
}

static int is_noted(const struct stat *status) {
    char path[PATH_MAX];
    struct stat live;
    if (!place_length || status->st_dev != place_status.st_dev)
        return 0;
    snprintf(path, sizeof path, "%s/%lu.live", shadow, (unsigned long)status->st_ino);
    return !stat(path, &live) && live.st_ino == status->st_ino;
}

static void wait_for_disk(void) {
    static __thread uint64_t random;
    if (!slowness)
        return;
    if (!random) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        random = (uint64_t)now.tv_nsec * 0x9E3779B97F4A7C15u ^ (uint64_t)getpid() << 32 ^ 1;
    }
    random ^= random << 13, random ^= random >> 7, random ^= random << 17;
    if (random % 8 == 0) /* mostly it is fast: a sleep of any length takes longer than the rest of a commit */
        usleep(random / 8 % slowness);
}

static ssize_t read_padded(int fd, char *buffer, off_t at) {
    ssize_t found = pread(fd, buffer, CHUNK, at);
    if (found < 0)
        die("read");
    memset(buffer + found, 0, CHUNK - found);
    return found;
}

/* Put the file's pages of [from, to) on the disk, or all of it.

   It is read through the caller's descriptor (-1: none) if that can be: to open the file once more, and close that,
   would take away the fcntl locks that the process has on it. */
static void keep(int fd, ino_t inode, off_t from, off_t to, int all) {
    static __thread char now[CHUNK], kept[CHUNK], again[CHUNK];
    uint64_t when[CHUNK / PAGE];
    struct stat status, old;
    int is_readable = fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) != O_WRONLY;
    int live = is_readable ? fd : open_shadow(inode, "live", O_RDONLY);
    int pages = open_shadow(inode, "pages", O_RDWR | O_CREAT);
    int whens = open_shadow(inode, "when", O_RDWR | O_CREAT);
    if (live < 0 || pages < 0 || whens < 0 || fstat(live, &status) || fstat(pages, &old))
        die("shadow");
    uint64_t position = note("sync %lu\n", (unsigned long)inode) + 1;
    if (all || to > status.st_size)
        to = status.st_size;
    /* A sync of some pages makes the file as long as they need, and takes over that it was cut. */
    off_t length = old.st_size > status.st_size || all ? status.st_size : to > old.st_size ? to : old.st_size;
    if (length < old.st_size && ftruncate(pages, length))
        die("shadow");
    for (off_t at = from / PAGE * PAGE; at < to; at += CHUNK) {
        read_padded(live, now, at);
        read_padded(pages, kept, at);
        int count = (to - at + PAGE - 1) / PAGE < CHUNK / PAGE ? (to - at + PAGE - 1) / PAGE : CHUNK / PAGE;
        for (int i = 0; i < count; i++) {
            when[i] = position;
            char *page = now + i * PAGE;
            if (!memcmp(page, kept + i * PAGE, PAGE))
                continue;
            /* Others may be writing to it: it is what it was at one instant when it is the same a second time. */
            for (;;) {
                read_padded(live, again, at);
                if (!memcmp(page, again + i * PAGE, PAGE))
                    break;
                memcpy(page, again + i * PAGE, PAGE);
            }
            if (pwrite(pages, page, PAGE, at + i * PAGE) != PAGE)
                die("shadow");
        }
        if (pwrite(whens, when, count * sizeof *when, at / PAGE * sizeof *when) < 0)
            die("shadow");
    }
    if (ftruncate(pages, length))
        die("shadow");
    if (!is_readable)
        close(live);
    close(pages);
    close(whens);
}

static int synced(int fd, long number) {
    struct stat status;
    if (!place_length || fstat(fd, &status))
        return syscall(number, fd);
    int is_place = status.st_ino == place_status.st_ino && status.st_dev == place_status.st_dev;
    if (!is_place && !is_noted(&status))
        return syscall(number, fd);
    wait_for_disk();
    int lock = take();
    if (is_place)
        note("names\n");
    else
        keep(fd, status.st_ino, 0, 0, 1);
    give(lock);
    return 0;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

/* Find the mapping that holds an address: what file it is of, and where in that the address is. */
static int mapped(uintptr_t address, struct stat *status, off_t *at) {
    char *line = NULL;
    size_t size = 0;
    int found = 0;
    FILE *maps = fopen("/proc/self/maps", "re");
    if (!maps)
        die("maps");
    while (!found && getline(&line, &size, maps) > 0) {
        char *end;
        uintptr_t first = strtoul(line, &end, 16), last = strtoul(end + 1, &end, 16);
        if (address < first || address >= last)
            continue;
        unsigned long offset, inode;
        unsigned major, minor;
        char path[PATH_MAX];
        if (sscanf(end, " %*s %lx %x:%x %lu", &offset, &major, &minor, &inode) != 4)
            die("maps");
        snprintf(path, sizeof path, "%s/%lu.live", shadow, inode);
        *at = offset + (address - first);
        found = inode && !stat(path, status) && status->st_ino == inode;
        break;
    }
    free(line);
    fclose(maps);
    return found;
}

int msync(void *address, size_t length, int flags) {
    struct stat status;
    off_t at;
    if (!place_length || !(flags & MS_SYNC) || !mapped((uintptr_t)address, &status, &at))
        return syscall(SYS_msync, address, length, flags);
    wait_for_disk();
    int lock = take();
    keep(-1, status.st_ino, at, at + length, 0);
    give(lock);
    return 0;
}

/* Names and lengths */

static int opened(int directory, const char *path, int flags, mode_t mode) {
    struct stat before, after;
    const char *name = name_in_place(path);
    if (!name || !(flags & (O_CREAT | O_TRUNC)))
        return syscall(SYS_openat, directory, path, flags, mode);
    int lock = take();
    int there = !lstat(path, &before);
    int fd = syscall(SYS_openat, directory, path, flags, mode), error = errno;
    if (fd >= 0 && !there) {
        char live[PATH_MAX];
        if (fstat(fd, &after))
            die("stat");
        snprintf(live, sizeof live, "%s/%lu.live", shadow, (unsigned long)after.st_ino);
        if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, live, 0))
            die("link");
        note("create %lu %s\n", (unsigned long)after.st_ino, name);
    } else if (fd >= 0 && flags & O_TRUNC && before.st_size) {
        note("truncate %lu 0\n", (unsigned long)before.st_ino);
    }
    give(lock);
    errno = error;
    return fd;
}

static mode_t mode_of(int flags, va_list arguments) {
    return flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(arguments, mode_t) : 0;
}

#define OPEN(NAME, PARAMETERS, LAST, DIRECTORY)        \
    int NAME PARAMETERS {                              \
        va_list arguments;                             \
        va_start(arguments, LAST);                     \
        mode_t mode = mode_of(flags, arguments);       \
        va_end(arguments);                             \
        return opened(DIRECTORY, path, flags, mode);   \
    }

OPEN(open, (const char *path, int flags, ...), flags, AT_FDCWD)
OPEN(open64, (const char *path, int flags, ...), flags, AT_FDCWD)
OPEN(openat, (int directory, const char *path, int flags, ...), flags, directory)
OPEN(openat64, (int directory, const char *path, int flags, ...), flags, directory)

static int cut(const struct stat *before, off_t length, int fd, const char *path) {
    int lock = take();
    int result = path ? syscall(SYS_truncate, path, length) : syscall(SYS_ftruncate, fd, length), error = errno;
    if (!result)
        note("truncate %lu %ld\n", (unsigned long)before->st_ino, (long)length);
    give(lock);
    errno = error;
    return result;
}

int ftruncate(int fd, off_t length) {
    struct stat before;
    if (!place_length || fstat(fd, &before) || length >= before.st_size || !is_noted(&before))
        return syscall(SYS_ftruncate, fd, length);
    return cut(&before, length, fd, NULL);
}

int truncate(const char *path, off_t length) {
    struct stat before;
    if (!place_length || stat(path, &before) || length >= before.st_size || !is_noted(&before))
        return syscall(SYS_truncate, path, length);
    return cut(&before, length, -1, path);
}

int ftruncate64(int fd, off_t length) { return ftruncate(fd, length); }
int truncate64(const char *path, off_t length) { return truncate(path, length); }

int rename(const char *old, const char *new) {
    const char *from = name_in_place(old), *to = name_in_place(new);
    if (!from && !to)
        return syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 0);
    if (!from || !to) {
        errno = EXDEV;
        die("rename into the place, or out of it");
    }
    int lock = take();
    int result = syscall(SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 0), error = errno;
    if (!result)
        note("rename %s %s\n", from, to);
    give(lock);
    errno = error;
    return result;
}

int link(const char *old, const char *new) {
    const char *from = name_in_place(old), *to = name_in_place(new);
    if (!to)
        return syscall(SYS_linkat, AT_FDCWD, old, AT_FDCWD, new, 0);
    if (!from) {
        errno = EXDEV;
        die("link into the place");
    }
    int lock = take();
    int result = syscall(SYS_linkat, AT_FDCWD, old, AT_FDCWD, new, 0), error = errno;
    if (!result)
        note("link %s %s\n", from, to);
    give(lock);
    errno = error;
    return result;
}

int unlink(const char *path) {
    const char *name = name_in_place(path);
    if (!name)
        return syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    int lock = take();
    int result = syscall(SYS_unlinkat, AT_FDCWD, path, 0), error = errno;
    if (!result)
        note("unlink %s\n", name);
    give(lock);
    errno = error;
    return result;
}
