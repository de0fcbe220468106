/* SPDX-License-Identifier: MIT */
/* Can the conformance test run here? Else says why not, and exits with 77. */
#include <stdio.h>

#include <hmm/hmm.h>

int main(void)
{
	struct hmm_features features = { .size = sizeof(features) };

	if (!hmm_probe(&features) && features.can_migrate && !features.user_mode_only)
		return 0;
	printf("%s\n", features.reason);
	return 77;
}
