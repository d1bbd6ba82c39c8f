"""What a browser does with an answer to a page of another origin: the rules of the Fetch standard (sections 3.2, 4.8, 4.9)."""

SAFE_METHODS = {"GET", "HEAD", "POST"}
SAFE_FIELDS = {"accept", "accept-language", "content-language", "range"}
SAFE_TYPES = {"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}
# Readable without being exposed.
SAFE_ANSWER = {"cache-control", "content-language", "content-length", "content-type", "expires", "last-modified", "pragma"}


def names(response, field):
    """Of a list field, in lower case; a value that is no list of tokens fails."""
    found = [name.strip() for value in response.all(field) for name in value.split(",") if name.strip()]
    assert all(name.replace("-", "").replace("_", "").isalnum() or name == "*" for name in found), found
    return {name.lower() for name in found}


def cors_check(response, origin):
    """4.9, for a request without credentials."""
    values = response.all("access-control-allow-origin")
    return values in ([origin], ["*"])


def unsafe(headers):
    """Those that need a preflight, sorted and in lower case."""
    return sorted(
        {n.lower() for n, v in headers if n.lower() not in SAFE_FIELDS}
        - {n.lower() for n, v in headers if n.lower() == "content-type" and v.split(";")[0].strip() in SAFE_TYPES}
    )


def preflight(connection, origin, method, headers):
    """What a page's fetch() sends first, where it must."""
    asked = [("Origin", origin), ("Access-Control-Request-Method", method)]
    if names_ := unsafe(headers):
        asked.append(("Access-Control-Request-Headers", ",".join(names_)))
    return connection.call("OPTIONS", [("Accept", "*/*"), *asked])


def preflight_allows(response, origin, method, headers):
    """4.8, from its step 7 on."""
    if not (cors_check(response, origin) and 200 <= response.status <= 299):
        return False
    methods = {m.strip() for value in response.all("access-control-allow-methods") for m in value.split(",")}
    if method not in methods and method not in SAFE_METHODS and "*" not in methods:
        return False
    allowed = names(response, "access-control-allow-headers")
    return all(n in allowed or ("*" in allowed and n != "authorization") for n in unsafe(headers))


def readable(response, name):
    """Whether the page may read that field."""
    exposed = names(response, "access-control-expose-headers")
    return name.lower() in SAFE_ANSWER | exposed or "*" in exposed
