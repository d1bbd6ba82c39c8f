#include "tests/lib/certs.h"

#include <errno.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <time.h>

static FILE *open_part(const char *dir, const char *name, const char *suffix, const char *mode)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s.%s", dir, name, suffix);
	return fopen(path, mode);
}

static int add_ext(X509 *cert, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX ctx;
	X509_EXTENSION *ext;
	int ok;

	X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
	ext = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
	ok = ext && X509_add_ext(cert, ext, -1);
	X509_EXTENSION_free(ext);
	return ok;
}

static int fill(X509 *cert, EVP_PKEY *key, X509 *issuer, const struct cert_spec *spec)
{
	static long serial;
	X509_NAME *name = X509_get_subject_name(cert);

	return X509_set_version(cert, X509_VERSION_3) &&
	       ASN1_INTEGER_set(X509_get_serialNumber(cert), (long)time(NULL) * 100 + serial++) &&
	       X509_time_adj_ex(X509_getm_notBefore(cert), 0, spec->from_s, NULL) &&
	       X509_time_adj_ex(X509_getm_notAfter(cert), 0, spec->to_s, NULL) && X509_set_pubkey(cert, key) &&
	       X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const unsigned char *)spec->name, -1, -1, 0) &&
	       X509_set_issuer_name(cert, X509_get_subject_name(issuer)) &&
	       add_ext(cert, issuer, NID_basic_constraints, spec->ca ? "critical,CA:TRUE" : "critical,CA:FALSE") &&
	       (!spec->san || add_ext(cert, issuer, NID_subject_alt_name, spec->san));
}

static int store(X509 *cert, EVP_PKEY *key, const struct cert_spec *spec)
{
	FILE *c = open_part(spec->dir, spec->name, "pem", "w");
	FILE *k = open_part(spec->dir, spec->name, "key", "w");
	int ok = c && k && PEM_write_X509(c, cert) && PEM_write_PrivateKey(k, key, NULL, NULL, 0, NULL, NULL);

	if (c)
		ok = fclose(c) == 0 && ok;
	if (k)
		ok = fclose(k) == 0 && ok;
	return ok;
}

int cert_make(const struct cert_spec *spec)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	X509 *issuer = NULL;
	EVP_PKEY *issuer_key = NULL;
	FILE *f;
	int ok;

	if (spec->issuer && (f = open_part(spec->dir, spec->issuer, "pem", "r"))) {
		issuer = PEM_read_X509(f, NULL, NULL, NULL);
		fclose(f);
	}
	if (spec->issuer && (f = open_part(spec->dir, spec->issuer, "key", "r"))) {
		issuer_key = PEM_read_PrivateKey(f, NULL, NULL, NULL);
		fclose(f);
	}
	ok = key && cert && (!spec->issuer || (issuer && issuer_key)) && fill(cert, key, issuer ? issuer : cert, spec) &&
	     X509_sign(cert, issuer_key ? issuer_key : key, EVP_sha256()) && store(cert, key, spec);
	X509_free(issuer);
	EVP_PKEY_free(issuer_key);
	X509_free(cert);
	EVP_PKEY_free(key);
	return ok ? 0 : -EIO;
}
