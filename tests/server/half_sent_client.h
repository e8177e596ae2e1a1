// HTTP/2 by hand, of calls that gRPC's own clients would not make: messages that announce a size and end before it.
#pragma once

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include "gtest/gtest.h"

namespace spotlight::server {

// One connection, which keeps to the windows it is given. Single-threaded.
class HalfSentClient {
 public:
  explicit HalfSentClient(int port) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    const int no_delay = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &no_delay, sizeof(no_delay));
    Send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + Frame(kSettings, 0, 0, ""));
  }
  ~HalfSentClient() { close(socket_); }
  HalfSentClient(const HalfSentClient&) = delete;
  HalfSentClient& operator=(const HalfSentClient&) = delete;

  // A call whose message announces `announced` bytes, of which `sent` shall be sent. `token` may be empty.
  void Call(const std::string& path, const std::string& token, uint32_t announced, int64_t sent) {
    std::string head = Header(":method", "POST") + Header(":scheme", "http") + Header(":path", path) +
                       Header(":authority", "localhost") + Header("content-type", "application/grpc") +
                       Header("te", "trailers");
    if (!token.empty()) head += Header("authorization", "Bearer " + token);
    const uint32_t id = next_id_;
    next_id_ += 2;
    Send(Frame(kHeaders, kEndHeaders, id, head));
    Stream& stream = streams_[id];
    stream.window = initial_window_;
    stream.unsent = sent;
    stream.prefix = std::string(1, '\0') + Big32(announced);
  }

  // Sends and reads until nothing has moved for `quiet`.
  void Run(std::chrono::milliseconds quiet = std::chrono::milliseconds(300)) {
    auto last = std::chrono::steady_clock::now();
    while (!ended_ && std::chrono::steady_clock::now() - last < quiet) {
      const bool sent = SendSome();
      if (ReadSome(sent ? 0 : 20) || sent) last = std::chrono::steady_clock::now();
    }
  }

  bool ended() const { return ended_; }  // the connection
  int num_streams() const { return static_cast<int>(streams_.size()); }
  int num_ended() const {
    return Count([](const Stream& stream) { return stream.ended; });
  }
  // Of messages that the server has taken more of than a stream's first window.
  int num_read() const {
    return Count([this](const Stream& stream) { return stream.num_sent > initial_window_; });
  }
  int64_t num_bytes() const {
    int64_t bytes = 0;
    for (const auto& [id, stream] : streams_) bytes += stream.num_sent;
    return bytes;
  }

 private:
  static constexpr uint8_t kData = 0, kHeaders = 1, kReset = 3, kSettings = 4, kPing = 6, kGoAway = 7, kWindow = 8;
  static constexpr uint8_t kEndStream = 1, kAck = 1, kEndHeaders = 4;
  static constexpr int64_t kMaxFrame = 16384;
  static constexpr size_t kFrameHead = 9;

  struct Stream {
    int64_t window = 0;
    int64_t unsent = 0;
    int64_t num_sent = 0;
    std::string prefix;  // gRPC's, not sent yet
    bool ended = false;
  };

  static std::string Big32(uint32_t value) {
    const char bytes[] = {static_cast<char>(value >> 24), static_cast<char>(value >> 16), static_cast<char>(value >> 8),
                          static_cast<char>(value)};
    return std::string(bytes, 4);
  }
  static uint32_t Read32(const char* bytes) {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i) value = value << 8 | static_cast<uint8_t>(bytes[i]);
    return value;
  }
  // A literal that is not indexed, of less than 127 bytes each.
  static std::string Header(const std::string& name, const std::string& value) {
    return std::string(1, '\0') + static_cast<char>(name.size()) + name + static_cast<char>(value.size()) + value;
  }
  static std::string Frame(uint8_t type, uint8_t flags, uint32_t id, const std::string& payload) {
    return Big32(static_cast<uint32_t>(payload.size())).substr(1) + static_cast<char>(type) + static_cast<char>(flags) +
           Big32(id) + payload;
  }
  void Send(const std::string& bytes) {
    if (send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(bytes.size())) ended_ = true;
  }
  template <class Predicate>
  int Count(Predicate predicate) const {
    return static_cast<int>(
        std::count_if(streams_.begin(), streams_.end(), [&](const auto& each) { return predicate(each.second); }));
  }

  // One frame of each stream that has room.
  bool SendSome() {
    bool sent = false;
    for (auto& [id, stream] : streams_) {
      const int64_t left = stream.unsent + static_cast<int64_t>(stream.prefix.size());
      const int64_t num_bytes = std::min({left, stream.window, window_, kMaxFrame});
      if (stream.ended || num_bytes < static_cast<int64_t>(stream.prefix.size()) || num_bytes == 0) continue;
      std::string payload = std::move(stream.prefix);
      stream.prefix.clear();
      stream.unsent -= num_bytes - static_cast<int64_t>(payload.size());
      payload.resize(static_cast<size_t>(num_bytes), 'x');
      Send(Frame(kData, 0, id, payload));
      stream.window -= num_bytes;
      window_ -= num_bytes;
      stream.num_sent += num_bytes;
      sent = true;
    }
    return sent;
  }

  bool ReadSome(int wait_ms) {
    pollfd poll_one{socket_, POLLIN, 0};
    if (poll(&poll_one, 1, wait_ms) != 1) return false;
    char bytes[65536];
    const ssize_t num_bytes = recv(socket_, bytes, sizeof(bytes), 0);
    if (num_bytes <= 0) {
      ended_ = true;
      return false;
    }
    unread_.append(bytes, static_cast<size_t>(num_bytes));
    bool moved = false;
    while (unread_.size() >= kFrameHead) {
      const size_t length = Read32(unread_.data()) >> 8;
      if (unread_.size() < kFrameHead + length) break;
      const uint32_t id = Read32(unread_.data() + 5) & 0x7fffffff;
      moved |= Take(static_cast<uint8_t>(unread_[3]), static_cast<uint8_t>(unread_[4]), id,
                    unread_.substr(kFrameHead, length));
      unread_.erase(0, kFrameHead + length);
    }
    return moved;
  }

  // False: nothing that matters here.
  bool Take(uint8_t type, uint8_t flags, uint32_t id, const std::string& payload) {
    if (type == kSettings && (flags & kAck) == 0) {
      for (size_t at = 0; at + 6 <= payload.size(); at += 6) {
        if (payload[at] != 0 || payload[at + 1] != 4) continue;  // SETTINGS_INITIAL_WINDOW_SIZE
        const auto window = static_cast<int64_t>(Read32(payload.data() + at + 2));
        for (auto& [stream_id, stream] : streams_) stream.window += window - initial_window_;
        initial_window_ = window;
      }
      Send(Frame(kSettings, kAck, 0, ""));
    } else if (type == kPing && (flags & kAck) == 0) {
      Send(Frame(kPing, kAck, 0, payload));
      return false;
    } else if (type == kWindow) {
      const int64_t more = Read32(payload.data()) & 0x7fffffff;
      (id == 0 ? window_ : streams_[id].window) += more;
    } else if (type == kReset || (type == kHeaders && (flags & kEndStream) != 0)) {
      streams_[id].ended = true;
    } else if (type == kGoAway) {
      ended_ = true;
    }
    return true;
  }

  const int socket_;
  bool ended_ = false;
  std::string unread_;
  uint32_t next_id_ = 1;
  int64_t initial_window_ = 65535;
  int64_t window_ = 65535;
  std::map<uint32_t, Stream> streams_;
};

}  // namespace spotlight::server
