#include "server/http_server.h"

#include <sys/socket.h>

#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "httplib.h"

namespace spotlight::server {
namespace {

// A connection holds a thread for as long as it is open, an idle one until the timeout: enough threads that a few idle
// ones do not keep a probe waiting.
constexpr int kNumThreads = 16;
constexpr int kTimeoutSeconds = 1;

void Answer(const std::function<absl::Status()>& probe, httplib::Response* response) {
  const absl::Status status = probe();
  response->status = status.ok() ? 200 : 503;
  response->set_content(status.ok() ? "ok\n" : absl::StrCat(status.message(), "\n"), "text/plain; charset=utf-8");
}

int HttpStatusOf(absl::StatusCode code) {
  switch (code) {
    case absl::StatusCode::kInvalidArgument:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kAlreadyExists:
      return 409;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

template <class Fields>
std::vector<std::string> ValuesOf(const Fields& fields, const std::string& name) {
  std::vector<std::string> values;
  const auto range = fields.equal_range(name);
  for (auto field = range.first; field != range.second; ++field) values.push_back(field->second);
  return values;
}

void AnswerProfile(const HttpPages& pages, const httplib::Request& request, httplib::Response* response) {
  if (request.method != "GET") {  // a HEAD would record, and throw it away
    response->status = 405;
    return;
  }
  ProfileCall call;
  call.authorization = ValuesOf(request.headers, "Authorization");
  call.peer = absl::StrCat("http:", request.remote_addr);
  call.steps = ValuesOf(request.params, "steps");
  call.seconds = ValuesOf(request.params, "seconds");
  const auto trace = pages.profile(call);
  response->set_header("Cache-Control", "no-store");
  if (trace.ok()) return response->set_content(*trace, "application/json");
  response->status = HttpStatusOf(trace.status().code());
  if (response->status == 401) response->set_header("WWW-Authenticate", "Bearer");
  response->set_content(absl::StrCat(trace.status().message(), "\n"), "text/plain; charset=utf-8");
}

}  // namespace

struct HttpServer::Listener {
  HttpPages pages;
  std::unique_ptr<httplib::Server> server;
  int port = 0;
  std::atomic<bool> ended{false};
  std::thread thread;
};

HttpServer::HttpServer(std::unique_ptr<Listener> listener) : listener_(std::move(listener)) {}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const ListenAddress& address, HttpPages pages,
                                                              const Tls* tls) {
  if (absl::Status status = CheckBindable(address); !status.ok()) return status;
  auto listener = std::make_unique<Listener>();
  listener->pages = std::move(pages);
  if (tls == nullptr) {
    listener->server = std::make_unique<httplib::Server>();
  } else {
    listener->server = std::make_unique<httplib::SSLServer>([tls](SSL_CTX& context) {
      tls->PrepareContext(&context);
      return true;
    });
  }
  httplib::Server& server = *listener->server;
  server.new_task_queue = [] { return new httplib::ThreadPool(kNumThreads); };
  server.set_keep_alive_max_count(1);
  server.set_keep_alive_timeout(kTimeoutSeconds);  // also how long the first request may take to begin
  server.set_read_timeout(kTimeoutSeconds);
  server.set_write_timeout(kTimeoutSeconds);
  server.set_payload_max_length(1024);
  // Before a body is read or a page cut into ranges: neither has a bound of its own.
  server.set_pre_routing_handler([](const httplib::Request& request, httplib::Response& response) {
    const bool reads = request.method == "GET" || request.method == "HEAD";
    if (reads && !request.has_header("Range")) return httplib::Server::HandlerResponse::Unhandled;
    response.status = reads ? 400 : 405;
    response.set_header("Connection", "close");
    return httplib::Server::HandlerResponse::Handled;
  });
  // The default adds SO_REUSEPORT, with which two servers share a port and nobody is told.
  server.set_socket_options([](int fd) {
    const int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  });
  const HttpPages& answers = listener->pages;
  server.Get("/metrics", [&answers](const httplib::Request&, httplib::Response& response) {
    response.set_content(answers.metrics(), "text/plain; version=0.0.4; charset=utf-8");
  });
  server.Get("/healthz",
             [&answers](const httplib::Request&, httplib::Response& response) { Answer(answers.live, &response); });
  server.Get("/readyz",
             [&answers](const httplib::Request&, httplib::Response& response) { Answer(answers.ready, &response); });
  server.Get("/debug/profile", [&answers](const httplib::Request& request, httplib::Response& response) {
    AnswerProfile(answers, request, &response);
  });

  listener->port = address.port;
  const bool bound = address.port != 0 ? server.bind_to_port(address.host, address.port)
                                       : (listener->port = server.bind_to_any_port(address.host)) > 0;
  if (!bound) return absl::UnavailableError(absl::StrCat(address.ToString(), ": cannot be listened on"));
  listener->thread = std::thread([raw = listener.get()] {
    raw->server->listen_after_bind();
    raw->ended = true;
  });
  // stop() before the loop runs would be forgotten, and the destructor would wait for ever.
  while (!server.is_running() && !listener->ended) std::this_thread::yield();
  return std::unique_ptr<HttpServer>(new HttpServer(std::move(listener)));
}

HttpServer::~HttpServer() {
  listener_->server->stop();
  listener_->thread.join();
}

int HttpServer::port() const {
  return listener_->port;
}

}  // namespace spotlight::server
