// A relay on the loopback that keeps a copy of what the server says, since gRPC's own client hides some of it, and that
// can fall silent.
#pragma once

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <string>
#include <thread>

namespace spotlight::testing {

// Relays one connection at a time, until destroyed.
class TcpRelay {
 public:
  // `delay` before whatever is passed on.
  explicit TcpRelay(int server_port, std::chrono::milliseconds delay = std::chrono::milliseconds(0))
      : server_port_(server_port), delay_(delay), listener_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = Loopback(0);
    bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    listen(listener_, 4);
    socklen_t size = sizeof(address);
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~TcpRelay() {
    shutdown(listener_, SHUT_RDWR);
    thread_.join();
    close(listener_);
  }
  TcpRelay(const TcpRelay&) = delete;
  TcpRelay& operator=(const TcpRelay&) = delete;

  int port() const { return port_; }
  // From now on nothing is passed on and nothing closed: what a host's end looks like that loses its power.
  void Freeze() { frozen_ = true; }
  std::string from_server() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return from_server_;
  }

 private:
  static sockaddr_in Loopback(int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }

  void Run() {
    for (int client; (client = accept(listener_, nullptr, nullptr)) >= 0; close(client)) {
      const int server = socket(AF_INET, SOCK_STREAM, 0);
      const sockaddr_in address = Loopback(server_port_);
      if (connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) Relay(client, server);
      close(server);
    }
  }

  // Until one side closes, or the relay does.
  void Relay(int client, int server) {
    pollfd fds[] = {{client, POLLIN, 0}, {server, POLLIN, 0}, {listener_, 0, 0}};
    char chunk[1 << 16];
    while (poll(fds, 3, kFreezeNoticedMs) >= 0 && fds[2].revents == 0) {
      if (frozen_) {
        fds[0].fd = fds[1].fd = -1;  // poll passes them over
        continue;
      }
      for (int i = 0; i < 2; ++i) {
        if (fds[i].revents == 0) continue;
        const ssize_t size = read(fds[i].fd, chunk, sizeof(chunk));
        if (size <= 0) return;
        std::this_thread::sleep_for(delay_);
        if (fds[i].fd == server) {
          std::lock_guard<std::mutex> lock(mutex_);
          from_server_.append(chunk, static_cast<size_t>(size));
        }
        if (send(fds[1 - i].fd, chunk, static_cast<size_t>(size), MSG_NOSIGNAL) != size) return;
      }
    }
  }

  static constexpr int kFreezeNoticedMs = 20;

  const int server_port_;
  const std::chrono::milliseconds delay_;
  const int listener_;
  int port_ = 0;
  mutable std::mutex mutex_;
  std::string from_server_;
  std::atomic<bool> frozen_{false};
  std::thread thread_;
};

}  // namespace spotlight::testing
