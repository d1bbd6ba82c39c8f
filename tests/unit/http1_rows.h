/* Good and bad messages, with what http1_trace.h says of them. */
#pragma once

#include "base/span.h"

struct row {
	bool response;
	bool to_head;
	struct span input;
	const char *want;
};

#define REQ(in, out) { false, false, { in, sizeof(in) - 1 }, out },
#define RES(in, out) { true, false, { in, sizeof(in) - 1 }, out },
#define HEAD_RES(in, out) { true, true, { in, sizeof(in) - 1 }, out },
#define H "Host: a\r\n"
#define GET "GET / HTTP/1.1\r\n" H
#define POST "POST / HTTP/1.1\r\n" H
#define CHUNKED POST "Transfer-Encoding: chunked\r\n\r\n"
#define CHUNKED_OUT "POST / 1.1 chunked keep{Host=a;Transfer-Encoding=chunked}"
#define OK "HTTP/1.1 200 OK\r\n"

static const struct row good[] = {
	/* request lines */
	REQ("", "")
	REQ(GET "\r\n", "GET / 1.1 none keep{Host=a} END")
	REQ("\r\n" GET "\r\n", "GET / 1.1 none keep{Host=a} END")
	REQ("\r\n", "")
	REQ(GET "\r\n\r\n" GET "\r\n\r\n", "GET / 1.1 none keep{Host=a} END GET / 1.1 none keep{Host=a} END")
	REQ("M-!#$%&'*+.^_`|~9 /a?b=%00#\"<>{} HTTP/1.1\r\n" H "\r\n",
	    "M-!#$%&'*+.^_`|~9 /a?b=%00#\"<>{} 1.1 none keep{Host=a} END")
	REQ("OPTIONS * HTTP/1.1\r\n" H "\r\n", "OPTIONS * 1.1 none keep{Host=a} END")
	REQ("GET http://b/ HTTP/1.1\r\n" H "\r\n", "GET http://b/ 1.1 none keep{Host=a} END")
	REQ("GET / HTTP/1.0\r\n\r\n", "GET / 1.0 none{} END")
	REQ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", "GET / 1.0 none keep{Connection=Keep-Alive} END")
	/* fields */
	REQ(GET "A:b\r\nC:\t d \t\r\nE:\r\nF: g\xff\r\n\r\n", "GET / 1.1 none keep{Host=a;A=b;C=d;E=;F=g\xff} END")
	REQ(GET "A: b:c\td\r\nA: e\r\n\r\n", "GET / 1.1 none keep{Host=a;A=b:c\td;A=e} END")
	/* Host */
	REQ("GET / HTTP/1.1\r\nhOST: a.b-c_d~:8080\r\n\r\n", "GET / 1.1 none keep{hOST=a.b-c_d~:8080} END")
	REQ("GET / HTTP/1.1\r\nHost: [::1.2.3.4]:1\r\n\r\n", "GET / 1.1 none keep{Host=[::1.2.3.4]:1} END")
	REQ("GET / HTTP/1.1\r\nHost: [fe80::AB]\r\n\r\n", "GET / 1.1 none keep{Host=[fe80::AB]} END")
	REQ("GET / HTTP/1.1\r\nHost: a%2Fb:\r\n\r\n", "GET / 1.1 none keep{Host=a%2Fb:} END")
	/* Connection, Expect, Upgrade */
	REQ(GET "Connection: close\r\n\r\n", "GET / 1.1 none{Host=a;Connection=close} END")
	REQ(GET "connection: x,\t CLOSE ,y\r\n\r\n", "GET / 1.1 none{Host=a;connection=x,\t CLOSE ,y} END")
	REQ(GET "Connection: keep-alive\r\nConnection: close\r\n\r\n",
	    "GET / 1.1 none{Host=a;Connection=keep-alive;Connection=close} END")
	REQ(GET "Connection: closed\r\n\r\n", "GET / 1.1 none keep{Host=a;Connection=closed} END")
	REQ(GET "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
	    "GET / 1.1 none keep upgrade{Host=a;Connection=Upgrade;Upgrade=websocket} END")
	REQ(GET "Connection: upgrade\r\n\r\n", "GET / 1.1 none keep{Host=a;Connection=upgrade} END")
	REQ(GET "Upgrade: websocket\r\n\r\n", "GET / 1.1 none keep{Host=a;Upgrade=websocket} END")
	REQ("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: b\r\n\r\n",
	    "GET / 1.0 none{Connection=upgrade;Upgrade=b} END")
	REQ(POST "Expect: 100-Continue\r\nContent-Length: 1\r\n\r\nx",
	    "POST / 1.1 length=1 keep expect{Host=a;Expect=100-Continue;Content-Length=1} \"x\" END")
	REQ("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\nx",
	    "POST / 1.0 length=1{Expect=100-continue;Content-Length=1} \"x\" END")
	/* bodies of requests */
	REQ(POST "Content-Length: 0\r\n\r\n", "POST / 1.1 length=0 keep{Host=a;Content-Length=0} END")
	REQ(POST "Content-Length: 5\r\n\r\nhello" GET "\r\n",
	    "POST / 1.1 length=5 keep{Host=a;Content-Length=5} \"hello\" END GET / 1.1 none keep{Host=a} END")
	REQ(POST "Content-Length: 0003\r\n\r\nabc", "POST / 1.1 length=3 keep{Host=a;Content-Length=0003} \"abc\" END")
	REQ(CHUNKED "0\r\n\r\n", CHUNKED_OUT " END")
	REQ(CHUNKED "5\r\nhello\r\n00A\r\n\r\n234567\r\n\r\n0\r\n\r\n", CHUNKED_OUT " \"hello\r\n234567\r\n\" END")
	REQ(CHUNKED "1;a;b=\"c d\"\xff\t\r\nx\r\n000;\r\n\r\n", CHUNKED_OUT " \"x\" END")
	REQ(CHUNKED "1\r\nx\r\n0\r\nA: b\r\nContent-Length: 9\r\nC:\r\n\r\n" GET "\r\n",
	    CHUNKED_OUT " \"x\" END GET / 1.1 none keep{Host=a} END")
	REQ(POST "transfer-encoding:\tChunked \r\n\r\n0\r\n\r\n",
	    "POST / 1.1 chunked keep{Host=a;transfer-encoding=Chunked} END")
	/* status lines */
	RES("", "")
	RES("HTTP/1.1 204 No Content\r\n\r\n", "204 (No Content) 1.1 none keep{} END")
	RES("HTTP/1.1 204\r\n\r\n", "204 () 1.1 none keep{} END")
	RES("HTTP/1.1 204 \r\n\r\n", "204 () 1.1 none keep{} END")
	RES("HTTP/1.1 204  \tfine\xe9 \r\n\r\n", "204 (fine\xe9) 1.1 none keep{} END")
	RES("HTTP/1.1 599 x\r\nContent-Length: 0\r\n\r\n", "599 (x) 1.1 length=0 keep{Content-Length=0} END")
	/* bodies of responses */
	RES(OK "\r\n", "200 (OK) 1.1 close{} END")
	RES(OK "\r\nabc", "200 (OK) 1.1 close{} \"abc\" END")
	RES("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\nabc",
	    "200 (OK) 1.0 close{Connection=keep-alive} \"abc\" END")
	RES("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
	    "200 (OK) 1.0 length=1 keep{Connection=keep-alive;Content-Length=1} \"a\" END")
	RES(OK "Content-Length: 2\r\n\r\nok" OK "Content-Length: 1\r\n\r\n!",
	    "200 (OK) 1.1 length=2 keep{Content-Length=2} \"ok\" END "
	    "200 (OK) 1.1 length=1 keep{Content-Length=1} \"!\" END")
	RES("HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
	    "202 (Accepted) 1.1 chunked keep{Transfer-Encoding=chunked} END")
	RES(OK "Transfer-Encoding: chunked\r\nHost: a\r\nHost: b\r\nExpect: x\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
	    "200 (OK) 1.1 chunked keep{Transfer-Encoding=chunked;Host=a;Host=b;Expect=x} \"abc\" END")
	RES("HTTP/1.1 204 x\r\nContent-Length: 5\r\n\r\n", "204 (x) 1.1 none keep{Content-Length=5} END")
	RES("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n" OK "Content-Length: 0\r\n\r\n",
	    "304 (x) 1.1 none keep{Content-Length=5} END 200 (OK) 1.1 length=0 keep{Content-Length=0} END")
	RES("HTTP/1.1 304 x\r\nTransfer-Encoding: chunked\r\n\r\n",
	    "304 (x) 1.1 none keep{Transfer-Encoding=chunked} END")
	HEAD_RES(OK "Content-Length: 5\r\n\r\n", "200 (OK) 1.1 none=5 keep{Content-Length=5} END")
	HEAD_RES("HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\n", "304 (x) 1.1 none=5 keep{Content-Length=5} END")
	HEAD_RES(OK "Transfer-Encoding: chunked\r\n\r\n", "200 (OK) 1.1 none keep{Transfer-Encoding=chunked} END")
	HEAD_RES(OK "\r\n", "200 (OK) 1.1 none keep{} END")
	/* interim responses */
	RES("HTTP/1.1 100 Continue\r\n\r\n" OK "Content-Length: 1\r\n\r\nx",
	    "100 (Continue) 1.1 none keep{} 200 (OK) 1.1 length=1 keep{Content-Length=1} \"x\" END")
	RES("HTTP/1.1 103 x\r\nA: b\r\nContent-Length: 3\r\n\r\nHTTP/1.1 103 x\r\nA: c\r\n\r\nHTTP/1.1 204 y\r\n\r\n",
	    "103 (x) 1.1 none keep{A=b;Content-Length=3} 103 (x) 1.1 none keep{A=c} 204 (y) 1.1 none keep{} END")
	HEAD_RES("HTTP/1.1 103 x\r\n\r\n" OK "Content-Length: 3\r\n\r\n",
		 "103 (x) 1.1 none keep{} 200 (OK) 1.1 none=3 keep{Content-Length=3} END")
	RES("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
	    "101 (x) 1.1 none upgrade{Connection=upgrade;Upgrade=websocket} END")
};

#define BAD_VERSION "BAD 400 bad HTTP version"
#define CLOSED "closed in the middle of a message"

static const struct row bad[] = {
	/* request lines */
	REQ("\r\n\r\n" GET "\r\n", "BAD 400 empty line instead of a start line")
	REQ("\n" GET "\r\n", "BAD 400 bare LF in the head")
	REQ("\r" GET "\r\n", "BAD 400 bare CR before the request line")
	REQ("GET /\r\n", "BAD 400 " CLOSED)
	REQ("GET /\r\n\r\n", "BAD 400 no HTTP version")
	REQ("GET / \r\n\r\n", BAD_VERSION)
	REQ("GET\r\n\r\n", "BAD 400 bad method")
	REQ(" GET / HTTP/1.1\r\n" H "\r\n", "BAD 400 bad method")
	REQ("GET  / HTTP/1.1\r\n" H "\r\n", "BAD 400 bad request target")
	REQ("GET /  HTTP/1.1\r\n" H "\r\n", BAD_VERSION)
	REQ("GET\t/ HTTP/1.1\r\n" H "\r\n", "BAD 400 bad method")
	REQ("GET /\tHTTP/1.1\r\n" H "\r\n", "BAD 400 bad request target")
	REQ("GET / HTTP/1.1 \r\n" H "\r\n", "BAD 400 bad request line")
	REQ("GET / HTTP/1.1\r\r\n" H "\r\n", "BAD 400 bad request line")
	REQ("GET / HTTP/1.10\r\n" H "\r\n", "BAD 400 bad request line")
	REQ("GET / HTTP/1\r\n" H "\r\n", BAD_VERSION)
	REQ("GET / HTTP/1.\r\n" H "\r\n", BAD_VERSION)
	REQ("GET / HTTP/+.1\r\n" H "\r\n", BAD_VERSION)
	REQ("GET / http/1.1\r\n" H "\r\n", BAD_VERSION)
	REQ("GET / H\r\n\r\n", BAD_VERSION)
	REQ("GET / HTTP/2.0\r\n" H "\r\n", "BAD 505 HTTP version other than 1.0 and 1.1")
	REQ("GET / HTTP/1.2\r\n" H "\r\n", "BAD 505 HTTP version other than 1.0 and 1.1")
	REQ("GET / HTTP/0.9\r\n\r\n", "BAD 505 HTTP version other than 1.0 and 1.1")
	REQ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "BAD 505 HTTP version other than 1.0 and 1.1")
	REQ("G(T / HTTP/1.1\r\n" H "\r\n", "BAD 400 bad method")
	REQ("G\0T / HTTP/1.1\r\n" H "\r\n", "BAD 400 bad method")
	REQ("GET /\x80 HTTP/1.1\r\n" H "\r\n", "BAD 400 bad request target")
	REQ("GET /\x7f HTTP/1.1\r\n" H "\r\n", "BAD 400 bad request target")
	REQ("GET /\0 HTTP/1.1\r\n" H "\r\n", "BAD 400 bad request target")
	REQ("GET / HTTP/1.1\n" H "\r\n", "BAD 400 bare LF in the head")
	REQ("\x16\x03\x01\x02\x00\r\n\r\n", "BAD 400 bad method")
	/* fields */
	REQ(GET " folded\r\n\r\n", "BAD 400 folded field line")
	REQ("GET / HTTP/1.1\r\n Host: a\r\n\r\n", "BAD 400 folded field line")
	REQ(GET "A: b\r\n\tc\r\n\r\n", "BAD 400 folded field line")
	REQ(GET "A : b\r\n\r\n", "BAD 400 white space in a field name")
	REQ(GET "A\t: b\r\n\r\n", "BAD 400 white space in a field name")
	REQ(GET "A B: c\r\n\r\n", "BAD 400 white space in a field name")
	REQ(GET ": b\r\n\r\n", "BAD 400 empty field name")
	REQ(GET "A\r\n\r\n", "BAD 400 field line without a colon")
	REQ(GET "A(: b\r\n\r\n", "BAD 400 bad byte in a field name")
	REQ(GET "A\0: b\r\n\r\n", "BAD 400 bad byte in a field name")
	REQ(GET "A\xe9: b\r\n\r\n", "BAD 400 bad byte in a field name")
	REQ(GET "A\r: b\r\n\r\n", "BAD 400 bad byte in a field name")
	REQ(GET "A: b\0c\r\n\r\n", "BAD 400 bad byte in a field value")
	REQ(GET "A: b\x01\r\n\r\n", "BAD 400 bad byte in a field value")
	REQ(GET "A: b\x7f\r\n\r\n", "BAD 400 bad byte in a field value")
	REQ(GET "A: b\rc\r\n\r\n", "BAD 400 bare CR in a field value")
	REQ(GET "A: b\r\r\n\r\n", "BAD 400 bare CR in a field value")
	REQ(GET "A: b\nC: d\r\n\r\n", "BAD 400 bare LF in the head")
	REQ(GET "A: b\r\n\n", "BAD 400 bare LF in the head")
	/* Host, Expect */
	REQ("GET / HTTP/1.1\r\nA: b\r\n\r\n", "BAD 400 no Host field")
	REQ(GET "Host: a\r\n\r\n", "BAD 400 two Host fields")
	REQ("GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", "BAD 400 two Host fields")
	REQ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: a:8x\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: a:8:0\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: []\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: [::g]\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: [::1]80\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: a%2\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: a%zz\r\n\r\n", "BAD 400 bad Host")
	REQ("GET / HTTP/1.1\r\nHost: a\xe9\r\n\r\n", "BAD 400 bad Host")
	REQ(POST "Expect: magic\r\n\r\n", "BAD 417 unknown expectation")
	REQ(POST "Expect: 100-continue, magic\r\n\r\n", "BAD 417 unknown expectation")
	REQ(POST "Expect: magic\r\nExpect: 100-continue\r\n\r\n", "BAD 417 unknown expectation")
	/* framing */
	REQ(POST "Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "BAD 400 two Content-Length fields")
	REQ(POST "Content-Length: 1\r\ncontent-length: 1\r\n\r\nx", "BAD 400 two Content-Length fields")
	REQ(POST "Content-Length: 1, 1\r\n\r\nx", "BAD 400 bad Content-Length")
	REQ(POST "Content-Length:\r\n\r\n", "BAD 400 bad Content-Length")
	REQ(POST "Content-Length: +1\r\n\r\nx", "BAD 400 bad Content-Length")
	REQ(POST "Content-Length: -1\r\n\r\nx", "BAD 400 bad Content-Length")
	REQ(POST "Content-Length: 0x1\r\n\r\nx", "BAD 400 bad Content-Length")
	REQ(POST "Content-Length: 1 1\r\n\r\nx", "BAD 400 bad Content-Length")
	REQ(POST "Content-Length: 1;\r\n\r\nx", "BAD 400 bad Content-Length")
	REQ(POST "Content-Length: 18446744073709551616\r\n\r\nx", "BAD 400 bad Content-Length")
	REQ(POST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
	    "BAD 400 Content-Length with Transfer-Encoding")
	REQ(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
	    "BAD 400 two Transfer-Encoding fields")
	REQ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "BAD 400 Transfer-Encoding in an HTTP/1.0 message")
	REQ(POST "Transfer-Encoding: gzip, chunked\r\n\r\n", "BAD 501 transfer coding other than chunked")
	REQ(POST "Transfer-Encoding: chunked, chunked\r\n\r\n", "BAD 501 transfer coding other than chunked")
	REQ(POST "Transfer-Encoding: identity\r\n\r\n", "BAD 501 transfer coding other than chunked")
	REQ(POST "Transfer-Encoding: xchunked\r\n\r\n", "BAD 501 transfer coding other than chunked")
	REQ(POST "Transfer-Encoding: chunked;q=1\r\n\r\n", "BAD 501 transfer coding other than chunked")
	REQ(POST "Transfer-Encoding: \"chunked\"\r\n\r\n", "BAD 501 transfer coding other than chunked")
	REQ(POST "Transfer-Encoding: \x0b" "chunked\r\n\r\n", "BAD 400 bad byte in a field value")
	REQ(POST "Transfer-Encoding:\r\n\r\n", "BAD 501 transfer coding other than chunked")
	REQ(POST "Transfer-Encoding : chunked\r\n\r\n", "BAD 400 white space in a field name")
	/* chunks */
	REQ(CHUNKED "\r\n\r\n", CHUNKED_OUT " BAD 400 bad chunk size")
	REQ(CHUNKED ";a\r\n\r\n", CHUNKED_OUT " BAD 400 bad chunk size")
	REQ(CHUNKED " 1\r\nx\r\n", CHUNKED_OUT " BAD 400 bad chunk size")
	REQ(CHUNKED "1 \r\nx\r\n", CHUNKED_OUT " BAD 400 bad chunk size")
	REQ(CHUNKED "+1\r\nx\r\n", CHUNKED_OUT " BAD 400 bad chunk size")
	REQ(CHUNKED "0x1\r\nx\r\n", CHUNKED_OUT " BAD 400 bad chunk size")
	REQ(CHUNKED "1g\r\nx\r\n", CHUNKED_OUT " BAD 400 bad chunk size")
	REQ(CHUNKED "1\nx\r\n", CHUNKED_OUT " BAD 400 bad chunk size")
	REQ(CHUNKED "1\rx\r\n", CHUNKED_OUT " BAD 400 bare CR in a chunk-size line")
	REQ(CHUNKED "10000000000000000\r\n", CHUNKED_OUT " BAD 400 chunk size too large")
	REQ(CHUNKED "1;a\nx\r\n", CHUNKED_OUT " BAD 400 bad byte in a chunk extension")
	REQ(CHUNKED "1;a\0\r\nx\r\n", CHUNKED_OUT " BAD 400 bad byte in a chunk extension")
	REQ(CHUNKED "1;a\rb\r\nx\r\n", CHUNKED_OUT " BAD 400 bare CR in a chunk-size line")
	REQ(CHUNKED "1\r\nxy\r\n", CHUNKED_OUT " \"x\" BAD 400 chunk longer than its size")
	REQ(CHUNKED "1\r\nx\n0\r\n\r\n", CHUNKED_OUT " \"x\" BAD 400 chunk longer than its size")
	REQ(CHUNKED "1\r\nx\rx", CHUNKED_OUT " \"x\" BAD 400 chunk longer than its size")
	REQ(CHUNKED "0\r\n\n", CHUNKED_OUT " BAD 400 bad trailer field")
	REQ(CHUNKED "0\r\nA: b\nC: d\r\n\r\n", CHUNKED_OUT " BAD 400 bad byte in a trailer value")
	REQ(CHUNKED "0\r\nA: b\r\n c\r\n\r\n", CHUNKED_OUT " BAD 400 bad trailer field")
	REQ(CHUNKED "0\r\nA : b\r\n\r\n", CHUNKED_OUT " BAD 400 bad trailer field")
	REQ(CHUNKED "0\r\nA\r\n\r\n", CHUNKED_OUT " BAD 400 bad trailer field")
	REQ(CHUNKED "0\r\n: b\r\n\r\n", CHUNKED_OUT " BAD 400 bad trailer field")
	REQ(CHUNKED "0\r\nA: \0\r\n\r\n", CHUNKED_OUT " BAD 400 bad byte in a trailer value")
	REQ(CHUNKED "0\r\nA: b\rc\r\n\r\n", CHUNKED_OUT " BAD 400 bare CR in a trailer")
	REQ(CHUNKED "0\r\n\rx", CHUNKED_OUT " BAD 400 bare CR in a trailer")
	/* closed too early */
	REQ("G", "BAD 400 " CLOSED)
	REQ(GET, "BAD 400 " CLOSED)
	REQ(POST "Content-Length: 2\r\n\r\nx",
	    "POST / 1.1 length=2 keep{Host=a;Content-Length=2} \"x\" BAD 400 " CLOSED)
	REQ(CHUNKED, CHUNKED_OUT " BAD 400 " CLOSED)
	REQ(CHUNKED "2\r\nx", CHUNKED_OUT " \"x\" BAD 400 " CLOSED)
	REQ(CHUNKED "1\r\nx\r\n", CHUNKED_OUT " \"x\" BAD 400 " CLOSED)
	REQ(CHUNKED "0\r\n", CHUNKED_OUT " BAD 400 " CLOSED)
	RES("HTTP/1.1 100 x\r\n\r\n", "100 (x) 1.1 none keep{} BAD 502 " CLOSED)
	RES(OK "Content-Length: 1\r\n\r\n", "200 (OK) 1.1 length=1 keep{Content-Length=1} BAD 502 " CLOSED)
	/* responses */
	RES("\r\n" OK "\r\n", "BAD 502 empty line instead of a start line")
	RES("ICY 200 OK\r\n\r\n", "BAD 502 bad HTTP version")
	RES("HTTX/1.1 200 OK\nA: b\r\n\r\n", "BAD 502 bad HTTP version")
	RES("HT\nTP", "BAD 502 bad HTTP version")
	RES("HTTP/2.0 200 OK\r\n\r\n", "BAD 502 HTTP version other than 1.0 and 1.1")
	RES("HTTP/1.1\r\n\r\n", "BAD 502 bad status")
	RES("HTTP/1.1  200 OK\r\n\r\n", "BAD 502 bad status")
	RES("HTTP/1.1 20 OK\r\n\r\n", "BAD 502 bad status")
	RES("HTTP/1.1 099 OK\r\n\r\n", "BAD 502 bad status")
	RES("HTTP/1.1 600 OK\r\n\r\n", "BAD 502 bad status")
	RES("HTTP/1.1 2000 OK\r\n\r\n", "BAD 502 bad status line")
	RES("HTTP/1.1 200\tOK\r\n\r\n", "BAD 502 bad status line")
	RES("HTTP/1.1 200 O\0K\r\n\r\n", "BAD 502 bad status line")
	RES("HTTP/1.1 200 O\rK\r\n\r\n", "BAD 502 bad status line")
	RES("HTTP/1.1 200 OK\n\n", "BAD 502 bare LF in the head")
	RES(OK "A: b\r\n c\r\n\r\n", "BAD 502 folded field line")
	RES(OK "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx", "BAD 502 two Content-Length fields")
	RES(OK "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
	    "BAD 502 Content-Length with Transfer-Encoding")
	RES(OK "Transfer-Encoding: gzip\r\n\r\n", "BAD 502 transfer coding other than chunked")
	RES("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "BAD 502 Transfer-Encoding in an HTTP/1.0 message")
	RES("HTTP/1.1 204 x\r\nTransfer-Encoding: chunked\r\n\r\n", "BAD 502 Transfer-Encoding where no body can be")
	RES("HTTP/1.1 101 x\r\nTransfer-Encoding: chunked\r\n\r\n", "BAD 502 Transfer-Encoding where no body can be")
	RES("HTTP/1.1 304 x\r\nContent-Length: x\r\n\r\n", "BAD 502 bad Content-Length")
	HEAD_RES(OK "Content-Length: 1, 1\r\n\r\n", "BAD 502 bad Content-Length")
};
