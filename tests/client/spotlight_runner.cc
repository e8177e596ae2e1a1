#include "tests/client/spotlight_runner.h"

#include <errno.h>
#include <unistd.h>

#include <sstream>
#include <streambuf>
#include <thread>

#include "client/console.h"
#include "client/run.h"

namespace spotlight::testing {
namespace {

// A string that can interrupt the program when it holds enough, or play a closed pipe.
class OutputBuffer : public std::stringbuf {
 public:
  OutputBuffer(const SpotlightInput& input, client::Interrupts* interrupts) : input_(input), interrupts_(interrupts) {}

 protected:
  int sync() override {
    if (input_.output_closed) {
      errno = EPIPE;
      return -1;
    }
    if (!notified_ && !input_.notify_at.empty() && str().find(input_.notify_at) != std::string::npos) {
      notified_ = true;
      interrupts_->Notify();
    }
    return 0;
  }

 private:
  const SpotlightInput& input_;
  client::Interrupts* interrupts_;
  bool notified_ = false;
};

}  // namespace

SpotlightResult RunSpotlight(const std::string& server, const std::vector<std::string>& arguments,
                             const SpotlightInput& input) {
  int fds[2];
  if (pipe(fds) != 0) return {-1, "", "no pipe"};
  // A thread, for text that is larger than the pipe.
  std::thread writer([&] {
    for (size_t written = 0; written < input.text.size();) {
      const ssize_t size = write(fds[1], input.text.data() + written, input.text.size() - written);
      if (size <= 0) break;
      written += size;
    }
    if (input.ends) close(fds[1]);
  });
  client::Interrupts interrupts;
  if (input.interrupted) interrupts.Notify();
  OutputBuffer buffer(input, &interrupts);
  std::ostream out(&buffer);
  std::ostringstream err;
  client::Console console;
  console.in_fd = fds[0];
  console.in_is_terminal = input.is_terminal;
  console.out = &out;
  console.err = &err;
  console.interrupts = &interrupts;
  console.default_server = server;
  const int exit_code = client::Run(arguments, console);
  writer.join();
  close(fds[0]);
  if (!input.ends) close(fds[1]);
  return {exit_code, buffer.str(), err.str()};
}

}  // namespace spotlight::testing
