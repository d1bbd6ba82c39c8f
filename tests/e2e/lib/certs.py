"""Certificates for the tests, made by the openssl command."""

import subprocess


def _openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, stdin=subprocess.DEVNULL, capture_output=True)


class Authority:
    def __init__(self, directory, name):
        self.dir, self.name = directory, name
        self.cert, self.key = directory / f"{name}.pem", directory / f"{name}.key"
        _openssl(
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            30,
            "-subj",
            f"/CN=e2e {name}",
            "-keyout",
            self.key,
            "-out",
            self.cert,
            "-addext",
            "basicConstraints=critical,CA:TRUE",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        )

    def issue(self, name, san="DNS:localhost,IP:127.0.0.1", expired=False, days=20):
        """Gives (certificate, key) paths."""
        cert, key = self.dir / f"{name}.pem", self.dir / f"{name}.key"
        csr, ext = self.dir / f"{name}.csr", self.dir / f"{name}.ext"
        ext.write_text(
            f"subjectAltName={san}\nextendedKeyUsage=serverAuth,clientAuth\n"
            "basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n"
            "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        )
        _openssl(
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-subj",
            f"/CN={name}",
            "-keyout",
            key,
            "-out",
            csr,
        )
        if expired:
            self._issue_expired(csr, ext, cert)
        else:
            _openssl(
                "x509",
                "-req",
                "-in",
                csr,
                "-CA",
                self.cert,
                "-CAkey",
                self.key,
                "-CAcreateserial",
                "-days",
                days,
                "-extfile",
                ext,
                "-out",
                cert,
            )
        return cert, key

    def _issue_expired(self, csr, ext, cert):
        # `x509 -req` of OpenSSL 3.0 cannot set dates; `ca` can.
        (self.dir / "index.txt").write_text("")
        (self.dir / "serial").write_text("1000\n")
        config = self.dir / "ca.cnf"
        config.write_text(
            f"[ca]\ndefault_ca=d\n[d]\ndatabase={self.dir}/index.txt\nserial={self.dir}/serial\n"
            f"new_certs_dir={self.dir}\ndefault_md=sha256\npolicy=p\n[p]\ncommonName=supplied\n"
        )
        _openssl(
            "ca",
            "-batch",
            "-config",
            config,
            "-cert",
            self.cert,
            "-keyfile",
            self.key,
            "-in",
            csr,
            "-out",
            cert,
            "-notext",
            "-extfile",
            ext,
            "-startdate",
            "20200101000000Z",
            "-enddate",
            "20200201000000Z",
        )


class Certificates:
    def __init__(self, directory):
        directory.mkdir(parents=True, exist_ok=True)
        self.ca = Authority(directory, "ca")
        self.other_ca = Authority(directory, "other-ca")
        self.server = self.ca.issue("server")
        self.expired = self.ca.issue("expired", expired=True)
        self.wrong_name = self.ca.issue("wrong-name", san="DNS:elsewhere.example")
        self.untrusted = self.other_ca.issue("untrusted")
