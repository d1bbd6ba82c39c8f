/* One audit record out of one line of JSON: what `journalctl -a -o json` prints (a value is a string, an array of numbers
 * for bytes, or an array of these where a field is there more than once), or a line of the file sink (names in lower
 * case). The line comes from whoever could write to the log.
 */
#pragma once

#include "daemon/audit_chain.h"
#include "daemon/digest.h"
#include "gateway/audit/finding.h"

enum { LOG_CHAIN_ID_MAX = 32 };

/* What has a meaning here; the first value counts where a field is there twice. */
enum log_word {
	LOG_EVENT,
	LOG_MESSAGE,
	LOG_SIDE,
	LOG_SCHEMA,
	LOG_SEQ,
	LOG_CHAIN_ID,
	LOG_CHAIN_PREV,
	LOG_CHAIN,
	LOG_TIME,
	LOG_TUNNEL_ID,
	LOG_CALL_ID,
	LOG_ARGS_HASH,
	LOG_REASON,
	LOG_GAP_FROM,
	LOG_GAP_TO,
	LOG_GAP_COUNT,
	LOG_GAP_CAUSE,
	LOG_PEER_CHAIN_ID,
	LOG_PEER_SEQ,
	LOG_PEER_CHAIN,
	LOG_WORD_N,
};

struct log_head {
	char chain_id[LOG_CHAIN_ID_MAX + 1];
	uint64_t seq;
	uint8_t hash[SHA256_LEN];
};

struct log_record {
	struct place at;
	enum side side;
	struct span words[LOG_WORD_N]; /* absent where there is no such field */
	struct log_head own;      /* MCP_CHAIN_ID, MCP_SEQ, MCP_CHAIN */
	uint8_t prev[SHA256_LEN];
	uint8_t computed[SHA256_LEN];
	bool intact;              /* computed is own.hash, and MESSAGE says the same */
	bool has_peer;
	struct log_head peer;     /* the gateway's head, as the relay logged it */
	uint64_t time_us;         /* of MCP_TIME; 0: none, or not read */
};

struct log_parser;
int log_parser_new(struct log_parser **ret);
struct log_parser *log_parser_free(struct log_parser *p);
DEFINE_CLEANUP(struct log_parser *, log_parser_free)

enum log_result {
	LOG_RECORD,
	LOG_OTHER,      /* JSON of something else */
	LOG_CUT,        /* what a write that failed half-way leaves behind: no whole JSON */
	LOG_BAD,        /* not what either form looks like, or values left out (journalctl without -a) */
	LOG_UNCHAINED,  /* says it is an audit record, and has no place in a chain */
};

/* side: of records that do not say it. The spans of *ret are valid until the next call. For LOG_BAD and LOG_UNCHAINED *ret_why is
 * static text for people. -errno: out of memory, or no digest. */
int log_parse(struct log_parser *p, struct span line, enum side side, struct log_record *ret, const char **ret_why);

/* Whether it is a head: chain id of 1 to LOG_CHAIN_ID_MAX bytes, hash in hex. */
bool log_head_make(struct span chain_id, uint64_t seq, struct span hash, struct log_head *ret);

/* RFC 3339 in UTC to microseconds since 1970; false when it is none. */
bool log_time(struct span text, uint64_t *ret_us);
