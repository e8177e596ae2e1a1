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

// A string that can interrupt the program once it ends with `notify_at`, or play a closed pipe.
class OutputBuffer : public std::stringbuf {
 public:
  OutputBuffer(const std::string& notify_at, bool closed, client::Interrupts* interrupts)
      : notify_at_(notify_at), closed_(closed), interrupts_(interrupts) {}

 protected:
  int sync() override {
    if (closed_) {
      errno = EPIPE;
      return -1;
    }
    const std::string text = str();
    const bool reached = !notify_at_.empty() && text.size() >= notify_at_.size() &&
                         text.compare(text.size() - notify_at_.size(), std::string::npos, notify_at_) == 0;
    if (reached && !notified_) interrupts_->Notify();
    notified_ = notified_ || reached;
    return 0;
  }

 private:
  const std::string notify_at_;
  const bool closed_;
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
  OutputBuffer out_buffer(input.notify_at, input.output_closed, &interrupts);
  OutputBuffer err_buffer(input.notify_at_stderr, /*closed=*/false, &interrupts);
  std::ostream out(&out_buffer);
  std::ostream err(&err_buffer);
  client::Console console;
  console.in_fd = fds[0];
  console.in_is_terminal = input.is_terminal;
  console.out = &out;
  console.err = &err;
  console.interrupts = &interrupts;
  console.default_server = server;
  console.default_token = input.token;
  const int exit_code = client::Run(arguments, console);
  writer.join();
  close(fds[0]);
  if (!input.ends) close(fds[1]);
  return {exit_code, out_buffer.str(), err_buffer.str()};
}

}  // namespace spotlight::testing
