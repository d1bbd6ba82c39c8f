/* Token and key files, and the memory they are kept in: pages of their own, locked where the limits allow, left out of
 * core dumps, wiped on free. A token is `mtt_TUNNELID_SECRET`, an agent's key is `mtk_SECRET`; the secret is 256 random
 * bits.
 */
#pragma once

#include "base/check.h"
#include "base/span.h"

enum {
	SECRET_FILE_MAX = 4096,
	SECRET_BYTES = 32,
	SECRET_TEXT_LEN = 43, /* base64url of SECRET_BYTES */
	TUNNEL_ID_MAX = 63,
	TOKEN_TEXT_MAX = 4 + TUNNEL_ID_MAX + 1 + SECRET_TEXT_LEN,
	AGENT_KEY_LEN = 4 + SECRET_TEXT_LEN,
};

struct secret {
	size_t len;
	char text[SECRET_FILE_MAX + 1]; /* NUL at text[len] */
};

struct token {
	char tunnel_id[TUNNEL_ID_MAX + 1];
	char text[TOKEN_TEXT_MAX + 1]; /* the whole token, as in Authorization: Bearer */
	uint8_t secret[SECRET_BYTES];
};

/* One line of a file, without its newline. The file must be regular, at most SECRET_FILE_MAX bytes, not readable or
 * writable for others and not writable for its group. `what` names the option's thing in messages ("token file").
 * err gets one line for people: which file, what is wrong, what to do; never the content.
 * -errno of opening or reading, -EACCES (permissions), -EINVAL (form), -ENOMEM. */
int secret_load(const char *what, const char *path, char *err, size_t err_size, struct secret **ret);
/* The same for a key: any bytes, at least min_len without one newline at the end. */
int secret_load_key(const char *what, const char *path, size_t min_len, char *err, size_t err_size, struct secret **ret);
struct secret *secret_free(struct secret *s);
/* The same demands on a file that something else will read. */
int secret_file_check(const char *what, const char *path, char *err, size_t err_size);

/* secret_load() and token_parse(). */
int token_load(const char *path, char *err, size_t err_size, struct token **ret);
/* -EINVAL, -ENOMEM. */
int token_parse(struct span text, struct token **ret);
struct token *token_free(struct token *t);

/* [a-z0-9][a-z0-9-]{0,62} */
bool tunnel_id_valid(struct span id);

/* Takes a token apart without copying; -EINVAL when it is none. ret_id points into text. */
int token_split(struct span text, struct span *ret_id, uint8_t ret_secret[SECRET_BYTES]);
/* Whether text has the form of an agent's key. */
bool agent_key_valid(struct span text);

/* New ones. out gets a NUL. -errno when there are no random bytes, -EINVAL for a bad id. */
int token_make(const char *tunnel_id, char out[TOKEN_TEXT_MAX + 1]);
int agent_key_make(char out[AGENT_KEY_LEN + 1]);

DEFINE_CLEANUP(struct secret *, secret_free)
DEFINE_CLEANUP(struct token *, token_free)
