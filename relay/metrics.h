/* /readyz and /metrics of the relay's --admin-listen. */
#pragma once

#include "base/buf.h"
#include "relay/relay.h"

/* Ready: it takes calls. Whether gateways are attached is told beside it. */
bool metrics_ready(const struct relay *r, struct buf *json_out);
int metrics_write(const struct relay *r, struct buf *out);
