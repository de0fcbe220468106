/* SPDX-License-Identifier: MIT */
/* Where the libraries are that `hmm run' puts into a program. */
#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "hmm.h"

static bool library_at(char *path, const char *dir, const char *name)
{
	return snprintf(path, PATH_MAX, "%s/%s", dir, name) < PATH_MAX && !access(path, R_OK);
}

/*
 * In the build directory, if this is in one; beside where this is installed, wherever that has
 * been moved; or where it was to be installed.
 */
bool hmm_library(char *path, const char *name, const char *built)
{
	char self[PATH_MAX] = "", dir[PATH_MAX + 64];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *here;

	if (n > 0) {
		self[n] = 0;
		here = dirname(self);
		snprintf(dir, sizeof(dir), "%s/../../%s", here, built);
		if (library_at(path, dir, name))
			return true;
		snprintf(dir, sizeof(dir), "%s/../" HMM_LIBDIR_NAME, here);
		if (library_at(path, dir, name))
			return true;
	}
	return library_at(path, HMM_LIBDIR, name);
}
