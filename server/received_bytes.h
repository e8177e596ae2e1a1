// What the connections of a port have received so far, as the kernel counts it.
//
// gRPC tells of a message when it is whole, and of nothing before. What has come of one can only be told from outside.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

namespace spotlight::server {

// The address and the port that "ipv4:10.0.0.7:52044" or "ipv6:%5B::1%5D:52044" is: what one connection is called here.
std::string ConnectionOf(const std::string& peer);

// By connection, in bytes. Looks through the sockets of this process: a microsecond each. Empty where the system does
// not tell.
std::unordered_map<std::string, int64_t> ReceivedBytes(int port);

}  // namespace spotlight::server
