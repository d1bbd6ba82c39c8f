/* Reads JSON values, one a line, and writes the canonical form of each (proto/jcs.h), one a line; "-" where RFC 8785 does not
 * cover it. For comparisons with other implementations. */
#include <stdio.h>

#include "proto/jcs.h"

enum { CANON_MAX = 64 * 1024 * 1024 };

int main(void)
{
	char *line = NULL;
	size_t size = 0;
	ssize_t n;

	while ((n = getline(&line, &size, stdin)) > 0) {
		struct buf out;
		int r;

		buf_init(&out, CANON_MAX);
		r = jcs_canonicalize(span_make(line, (size_t)n), &out);
		if (r < 0)
			return 1;
		if (r == 0)
			fwrite(buf_bytes(&out), 1, buf_len(&out), stdout);
		puts(r == 0 ? "" : "-");
		buf_done(&out);
	}
	free(line);
	return ferror(stdin) || fflush(stdout) != 0;
}
