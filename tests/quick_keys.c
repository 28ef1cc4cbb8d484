/* Preloaded into qemu-img, see quick_keys.py: a thread that asks how much CPU time it has used learns that it was a
   second more since it last asked. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/resource.h>

int getrusage(int who, struct rusage *usage)
{
    static __thread int asked;
    int (*libc)(int, struct rusage *) = (int (*)(int, struct rusage *))dlsym(RTLD_NEXT, "getrusage");
    int result = libc(who, usage);
    if (result == 0 && who == RUSAGE_THREAD)
        usage->ru_utime.tv_sec += ++asked;
    return result;
}
