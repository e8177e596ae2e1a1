#include "tests/soak/severing_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <list>
#include <string>
#include <vector>

namespace spotlight::soak {
namespace {

constexpr size_t kChunkBytes = 64 << 10;

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

void Reset(int fd) {
  const linger at_once = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  close(fd);
}

}  // namespace

struct SeveringProxy::Link {
  int fds[2];              // client, server
  std::string pending[2];  // read from fds[i], not yet written to the other
};

SeveringProxy::SeveringProxy(int target_port) : target_port_(target_port) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = Loopback(0);
  socklen_t size = sizeof(address);
  bind(listener_, reinterpret_cast<sockaddr*>(&address), size);
  listen(listener_, 64);
  getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
  wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  thread_ = std::thread([this] { Run(); });
}

SeveringProxy::~SeveringProxy() {
  stopping_ = true;
  eventfd_write(wake_, 1);
  thread_.join();
  close(listener_);
  close(wake_);
}

void SeveringProxy::Sever() {
  sever_ = true;
  eventfd_write(wake_, 1);
}

void SeveringProxy::Run() {
  std::list<Link> links;
  std::vector<char> chunk(kChunkBytes);
  while (!stopping_) {
    std::vector<pollfd> polled = {{wake_, POLLIN, 0}, {listener_, POLLIN, 0}};
    for (const Link& link : links) {
      for (int i = 0; i < 2; ++i) {
        const short wanted = (link.pending[i].empty() ? POLLIN : 0) | (link.pending[1 - i].empty() ? 0 : POLLOUT);
        polled.push_back({link.fds[i], wanted, 0});
      }
    }
    if (poll(polled.data(), polled.size(), -1) < 0) continue;
    eventfd_t count;
    eventfd_read(wake_, &count);
    size_t next = 2;
    for (auto link = links.begin(); link != links.end();) {
      bool broken = false;
      for (int i = 0; i < 2; ++i, ++next) {
        if ((polled[next].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && link->pending[i].empty()) {
          const ssize_t size = recv(link->fds[i], chunk.data(), chunk.size(), MSG_DONTWAIT);
          if (size > 0) link->pending[i].assign(chunk.data(), size);
          broken = broken || size == 0 || (size < 0 && errno != EAGAIN && errno != EINTR);
        }
      }
      for (int i = 0; i < 2 && !broken; ++i) {
        std::string& pending = link->pending[i];
        if (pending.empty()) continue;
        const ssize_t size = send(link->fds[1 - i], pending.data(), pending.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (size > 0) pending.erase(0, size);
        broken = broken || (size < 0 && errno != EAGAIN && errno != EINTR);
      }
      if (broken || sever_) {
        Reset(link->fds[0]);
        Reset(link->fds[1]);
        num_severed_ += broken ? 0 : 1;
        link = links.erase(link);
      } else {
        ++link;
      }
    }
    sever_ = false;
    if ((polled[1].revents & POLLIN) != 0) {
      Link link = {{accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC), socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)},
                   {}};
      const sockaddr_in target = Loopback(target_port_);
      if (connect(link.fds[1], reinterpret_cast<const sockaddr*>(&target), sizeof(target)) == 0) {
        const int on = 1;
        for (const int fd : link.fds) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        links.push_back(std::move(link));
      } else {
        Reset(link.fds[0]);
        close(link.fds[1]);
      }
    }
  }
  for (const Link& link : links) {
    close(link.fds[0]);
    close(link.fds[1]);
  }
}

}  // namespace spotlight::soak
