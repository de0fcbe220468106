/* SPDX-License-Identifier: MIT */
/* Messages: off by default but for errors (G11). */
#ifndef MM_LOG_H
#define MM_LOG_H

#include <hmm/hmm.h>

void mm_log(enum hmm_log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_err(...) mm_log(HMM_LOG_ERROR, __VA_ARGS__)
#define log_warn(...) mm_log(HMM_LOG_WARN, __VA_ARGS__)
#define log_debug(...) mm_log(HMM_LOG_DEBUG, __VA_ARGS__)

#endif
