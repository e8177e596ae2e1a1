// A TCP relay whose connections can be cut: what a client does that loses its network.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <set>
#include <string>
#include <thread>

namespace spotlight::soak {

// Listens on a free port of 127.0.0.1 and relays to `target_port` there. Thread-safe.
class SeveringProxy {
 public:
  explicit SeveringProxy(int target_port);
  ~SeveringProxy();
  SeveringProxy(const SeveringProxy&) = delete;
  SeveringProxy& operator=(const SeveringProxy&) = delete;

  const std::string& address() const { return address_; }
  // Both sides of every connection get a reset, with whatever was under way.
  void Sever();
  int64_t num_severed() const { return num_severed_; }

 private:
  struct Link;
  void Run();

  const int target_port_;
  int listener_ = -1;
  int wake_ = -1;  // an eventfd
  std::string address_;
  std::atomic<bool> sever_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> num_severed_{0};
  std::thread thread_;
};

}  // namespace spotlight::soak
