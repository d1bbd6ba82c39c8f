/* However the bytes are cut, the decoder says the same.
 * First byte: role and limit; second: where to cut; then the frames.
 */
#include "tests/lib/ws_items.h"
#include "tests/fuzz/pieces.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t max_message(uint8_t b)
{
	return (b & 2) ? SIZE_MAX : (size_t)(b >> 2);
}

static char *decode(const uint8_t *data, size_t size, bool cut, size_t *ret_len)
{
	struct ws_decoder d;
	struct ws_log log;
	uint32_t seed = data[1];
	const uint8_t *p = data + 2;
	size_t left = size - 2;

	ws_decoder_init(&d, data[0] & 1 ? WS_SERVER : WS_CLIENT, max_message(data[0]));
	ws_log_open(&log);
	if (!cut)
		ws_log_piece(&log, &d, p, left);
	while (cut && left) {
		size_t n = next_piece(&seed, left);

		ws_log_piece(&log, &d, p, n);
		p += n;
		left -= n;
	}
	ws_log_close(&log);
	*ret_len = log.len;
	return log.text;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t whole_len, cut_len;
	char *whole, *cut;

	if (size < 2)
		return 0;
	whole = decode(data, size, false, &whole_len);
	cut = decode(data, size, true, &cut_len);
	if (whole_len != cut_len || memcmp(whole, cut, whole_len) != 0) {
		fprintf(stderr, "in one piece: %s\nin pieces:    %s\n", whole, cut);
		abort();
	}
	free(whole);
	free(cut);
	return 0;
}
