/* SPDX-License-Identifier: MIT */
/*
 * Who gives privileges away: first what needs them is made, the userfaultfd above all.
 *
 * A program that does so at its start (a daemon that becomes its own user) is far from its
 * limit then, and would be found without a right when it comes near. One that never comes near
 * has a device and two more threads for it. So it is for who becomes another user; of
 * capabilities that are dropped alone the limits know (docs/limits.md).
 */
#include <dlfcn.h>
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "run.h"

static RUN_DATA int (*next_setuid)(uid_t);
static RUN_DATA int (*next_seteuid)(uid_t);
static RUN_DATA int (*next_setreuid)(uid_t, uid_t);
static RUN_DATA int (*next_setresuid)(uid_t, uid_t, uid_t);

/* The linker's lock is not taken when one of them is called. */
void privilege_start(void)
{
	*(void **)&next_setuid = dlsym(RTLD_NEXT, "setuid");
	*(void **)&next_seteuid = dlsym(RTLD_NEXT, "seteuid");
	*(void **)&next_setreuid = dlsym(RTLD_NEXT, "setreuid");
	*(void **)&next_setresuid = dlsym(RTLD_NEXT, "setresuid");
}

/* In a child of vfork() only it, for a moment, is another user. */
static void before(uid_t to)
{
	int err = errno;

	if (to != (uid_t)-1 && to != geteuid() && run_is_here())
		engine_engage_now();
	errno = err;
}

HMM_API int setuid(uid_t uid)
{
	before(uid);
	return next_setuid ? next_setuid(uid) : (int)syscall(SYS_setuid, uid);
}

HMM_API int seteuid(uid_t uid)
{
	before(uid);
	return next_seteuid ? next_seteuid(uid) : (int)syscall(SYS_setresuid, -1, uid, -1);
}

HMM_API int setreuid(uid_t real, uid_t effective)
{
	before(effective);
	return next_setreuid ? next_setreuid(real, effective) :
			       (int)syscall(SYS_setreuid, real, effective);
}

HMM_API int setresuid(uid_t real, uid_t effective, uid_t saved)
{
	before(effective);
	return next_setresuid ? next_setresuid(real, effective, saved) :
				(int)syscall(SYS_setresuid, real, effective, saved);
}
