#include <errno.h>
#include <string.h>
#include <time.h>

#include "proto/http1.h"

#define IMF_FIXDATE "%a, %d %b %Y %H:%M:%S GMT"

void http1_date_print(uint64_t unix_s, char out[HTTP1_DATE_LEN + 1])
{
	time_t t = (time_t)unix_s;
	struct tm tm;

	out[0] = '\0';
	if (gmtime_r(&t, &tm))
		out[strftime(out, HTTP1_DATE_LEN + 1, IMF_FIXDATE, &tm)] = '\0';
}

int http1_date_parse(struct span s, uint64_t *ret_unix_s)
{
	char text[HTTP1_DATE_LEN + 1];
	struct tm tm = { 0 };
	const char *end;
	time_t t;

	if (s.len != HTTP1_DATE_LEN)
		return -EINVAL;
	memcpy(text, s.p, s.len);
	text[s.len] = '\0';
	end = strptime(text, IMF_FIXDATE, &tm);
	if (!end || *end)
		return -EINVAL;
	t = timegm(&tm);
	if (t < 0)
		return -EINVAL;
	*ret_unix_s = (uint64_t)t;
	return 0;
}
