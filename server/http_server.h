// The HTTP port: /metrics, /healthz, /readyz, /debug/profile. No prompts, no answers.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/listen_address.h"
#include "server/profile_page.h"
#include "server/security/tls.h"

namespace spotlight::server {

// Called on the port's own threads, several at once.
struct HttpPages {
  std::function<std::string()> metrics;
  std::function<absl::Status()> live;   // /healthz: OK is 200, else 503 with the message
  std::function<absl::Status()> ready;  // /readyz likewise
  // /debug/profile: JSON, or the HTTP status that fits the error, with the message. May take minutes.
  std::function<absl::StatusOr<std::string>(const ProfileCall&)> profile;
};

// Thread-safe. Serves until destroyed.
class HttpServer {
 public:
  // Errors name the address.
  // `tls` makes it HTTPS, and outlives the server; null: plain HTTP.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const ListenAddress& address, HttpPages pages,
                                                           const Tls* tls);
  ~HttpServer();
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  int port() const;  // what was bound, where the address said 0

 private:
  struct Listener;
  explicit HttpServer(std::unique_ptr<Listener> listener);
  std::unique_ptr<Listener> listener_;
};

}  // namespace spotlight::server
