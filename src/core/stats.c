/* SPDX-License-Identifier: MIT */
/* Counters and settings of the process. */
#include <errno.h>
#include <string.h>

#include "core/core.h"

HMM_DATA struct hmm_stats stats;
static HMM_DATA bool user_mode;

HMM_API void hmm_set_user_mode(bool accept)
{
	__atomic_store_n(&user_mode, accept, __ATOMIC_RELAXED);
}

bool user_mode_accepted(void)
{
	return __atomic_load_n(&user_mode, __ATOMIC_RELAXED);
}

HMM_API int hmm_get_stats(struct hmm_stats *out)
{
	const uint64_t *from = &stats.cpu_faults;
	struct hmm_stats copy = { .size = out->size };
	uint64_t *to = &copy.cpu_faults;
	size_t i, n = (sizeof(stats) - offsetof(struct hmm_stats, cpu_faults)) / sizeof(*from);

	if (!out->size || out->size > sizeof(copy))
		return -EINVAL;
	for (i = 0; i < n; i++)
		to[i] = __atomic_load_n(&from[i], __ATOMIC_RELAXED);
	memcpy(out, &copy, out->size);
	return 0;
}
