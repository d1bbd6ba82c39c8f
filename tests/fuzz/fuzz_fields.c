/* Fields that are taken are written again as the same bytes: there is one way to say it. */
#include "proto/fields.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
	if (!ok)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct tp_field fields[TP_FIELDS_COUNT_MAX];
	uint8_t *copy = malloc(size ? size : 1), *again = malloc(size ? size : 1);
	const char *bad;
	size_t n = 0;

	must(copy && again);
	if (size)
		memcpy(copy, data, size);
	bad = fields_decode(copy, size, fields, &n);
	if (!bad && n > 0) {
		must(n <= TP_FIELDS_COUNT_MAX);
		must(fields_size(fields, n) == size);
		fields_encode(again, fields, n);
		must(memcmp(again, data, size) == 0);
	}
	must(bad || n > 0 || size == 0);
	free(copy);
	free(again);
	return 0;
}
