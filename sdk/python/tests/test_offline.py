"""Evidence bundles and passports, by the shared vectors; Ed25519, by RFC 8032's."""

import json
import pathlib
import unittest

from actpass import EvidenceError, PassportError, verify_evidence, verify_passport_offline
from actpass._ed25519 import _L, verify

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "vectors"

# RFC 8032 section 7.1, TEST 1 to 3: key, message, signature.
RFC8032 = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


class Offline(unittest.TestCase):
    def test_ed25519(self):
        for key, message, signature in (tuple(map(bytes.fromhex, v)) for v in RFC8032):
            self.assertTrue(verify(key, message, signature))
            self.assertFalse(verify(key, message + b"x", signature))
            for i in range(0, 64, 5):
                self.assertFalse(verify(key, message, signature[:i] + bytes([signature[i] ^ 1]) + signature[i + 1 :]))
            high = (int.from_bytes(signature[32:], "little") + _L).to_bytes(32, "little")
            self.assertFalse(verify(key, message, signature[:32] + high), "an S that is not reduced")
            self.assertFalse(verify(key, message, signature[:63]))
            self.assertFalse(verify(key[:31], message, signature))

    def test_bundles(self):
        cases = json.loads((VECTORS / "evidence.json").read_text("utf-8"))["cases"]
        self.assertGreater(len(cases), 30)
        for c in cases:
            with self.subTest(c["name"]):
                bundle = c["bundle"].encode()
                if c["expect"] is None:
                    with self.assertRaises(EvidenceError):
                        verify_evidence(bundle, c.get("key"))
                    continue
                r = verify_evidence(bundle, c.get("key"))
                self.assertEqual((r.tree_size, [i for i, _ in r.records]), (c["expect"]["tree_size"], c["expect"]["indexes"]))

    def test_no_changed_byte_of_a_bundle_verifies(self):
        bundle = json.loads((VECTORS / "evidence.json").read_text("utf-8"))["cases"][1]["bundle"].encode()
        self.assertEqual(len(verify_evidence(bundle).records), 4)
        for i in range(0, len(bundle), 3):
            with self.assertRaises(EvidenceError):
                verify_evidence(bundle[:i] + bytes([bundle[i] ^ 1]) + bundle[i + 1 :])

    def test_passports(self):
        doc = json.loads((VECTORS / "passports.json").read_text("utf-8"))
        self.assertGreater(len(doc["cases"]), 30)
        for c in doc["cases"]:
            with self.subTest(c["name"]):
                reason, claims = "", {}
                try:
                    claims = verify_passport_offline(c["token"], doc["jwks"], issuer=doc["issuer"], audience=doc["audience"], now=doc["now"])
                except PassportError as e:
                    reason = e.reason_code
                self.assertEqual((reason, claims.get("jti")), (c["reason"], c.get("jti")))

    def test_a_passport_is_exact(self):
        doc = json.loads((VECTORS / "passports.json").read_text("utf-8"))
        claims = verify_passport_offline(doc["cases"][0]["token"], doc["jwks"], now=doc["now"])
        self.assertEqual(claims["resource_constraints"]["max_amount"], 2**53 + 1)


if __name__ == "__main__":
    unittest.main()
