// Certificates for tests, made on the spot: an authority of its own and what it signs.
#pragma once
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <catch2/catch.hpp>
#include <memory>
#include <string>

namespace edge::rpc {

class TestAuthority {
 public:
  struct Issued {
    std::string certificate;
    std::string key;
  };
  TestAuthority() : key_(NewKey()), certificate_(Make("test authority", key_.get(), "")) {}

  // `names` as OpenSSL writes them: "DNS:edge.test,IP:127.0.0.1".
  Issued Issue(const std::string& common_name, const std::string& names) const {
    const Key key = NewKey();
    const Certificate certificate = Make(common_name, key.get(), names);
    return {Pem([&](BIO* bio) { PEM_write_bio_X509(bio, certificate.get()); }), Pem([&](BIO* bio) {
              PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
            })};
  }
  std::string pem() const {
    return Pem([this](BIO* bio) { PEM_write_bio_X509(bio, certificate_.get()); });
  }

 private:
  struct Free {
    void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
    void operator()(X509* certificate) const { X509_free(certificate); }
  };
  using Key = std::unique_ptr<EVP_PKEY, Free>;
  using Certificate = std::unique_ptr<X509, Free>;

  static Key NewKey() { return Key(EVP_EC_gen("P-256")); }

  Certificate Make(const std::string& common_name, EVP_PKEY* key, const std::string& names) const {
    Certificate made(X509_new());
    X509* const x = made.get();
    X509_set_version(x, 2);
    static long serial = 0;
    ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), 86400);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(common_name.c_str()), -1, -1,
                               0);
    const bool is_authority = names.empty();
    X509_set_issuer_name(x, X509_get_subject_name(is_authority ? x : certificate_.get()));
    X509_set_pubkey(x, key);
    Extend(x, is_authority ? NID_basic_constraints : NID_subject_alt_name,
           is_authority ? "critical,CA:TRUE" : names.c_str());
    REQUIRE(X509_sign(x, key_.get(), EVP_sha256()) > 0);
    return made;
  }
  static void Extend(X509* x, int nid, const char* value) {
    X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value);
    REQUIRE(extension != nullptr);
    X509_add_ext(x, extension, -1);
    X509_EXTENSION_free(extension);
  }
  template <typename F>
  static std::string Pem(F write) {
    BIO* const bio = BIO_new(BIO_s_mem());
    write(bio);
    char* data = nullptr;
    const long size = BIO_get_mem_data(bio, &data);
    std::string text(data, static_cast<size_t>(size));
    BIO_free(bio);
    return text;
  }

  const Key key_;
  const Certificate certificate_;
};

}  // namespace edge::rpc
