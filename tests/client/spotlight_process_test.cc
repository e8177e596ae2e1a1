// The real program: signals and pipes, which only a process has.
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/testing/fake_generation_server.h"

namespace spotlight::testing {
namespace {

class Process {
 public:
  // stdout and stderr are pipes to this process; SPOTLIGHT_SERVER is `server`.
  Process(const std::string& server, std::vector<std::string> arguments) {
    int out[2], err[2];
    EXPECT_EQ(pipe(out), 0);
    EXPECT_EQ(pipe(err), 0);
    arguments.insert(arguments.begin(), "client/spotlight");
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    setenv("SPOTLIGHT_SERVER", server.c_str(), 1);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(out[1], STDOUT_FILENO);
      dup2(err[1], STDERR_FILENO);
      for (int fd : {out[0], out[1], err[0], err[1]}) close(fd);
      execv(argv[0], argv.data());
      _exit(127);
    }
    close(out[1]);
    close(err[1]);
    out_fd_ = out[0];
    err_fd_ = err[0];
  }

  ~Process() {
    CloseOutput();
    close(err_fd_);
  }

  std::string ReadOutput(size_t size) {
    std::string text(size, '\0');
    size_t filled = 0;
    while (filled < size) {
      const ssize_t got = read(out_fd_, &text[filled], size - filled);
      if (got <= 0) break;
      filled += got;
    }
    text.resize(filled);
    return text;
  }

  std::string ReadErrors() {
    std::string text;
    char chunk[4096];
    for (ssize_t got; (got = read(err_fd_, chunk, sizeof(chunk))) > 0;) text.append(chunk, got);
    return text;
  }

  void CloseOutput() {
    if (out_fd_ >= 0) close(out_fd_);
    out_fd_ = -1;
  }

  void Signal(int number) { kill(pid_, number); }

  // The exit code, or minus the signal that ended it.
  int Wait() {
    int status = 0;
    EXPECT_EQ(waitpid(pid_, &status, 0), pid_);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  }

 private:
  pid_t pid_;
  int out_fd_;
  int err_fd_;
};

TEST(SpotlightProcessTest, SigintCancelsTheStreamOnTheServer) {
  for (const int number : {SIGINT, SIGTERM}) {
    FakeGenerationServer server;
    server.AddStream({{TextMessage("first", 1)}, {}, /*hold_open=*/true});
    Process process(server.address(), {"generate", "--prompt", "x"});
    ASSERT_EQ(process.ReadOutput(5), "first");
    process.Signal(number);
    EXPECT_EQ(process.ReadErrors(), "spotlight: cancelled\n");
    EXPECT_EQ(process.Wait(), 4);
    EXPECT_TRUE(server.WaitForCancelledStreams(1));
  }
}

TEST(SpotlightProcessTest, AClosedPipeEndsQuietlyAndCancelsTheStream) {
  FakeGenerationServer server;
  StreamScript script;
  // More than the pipe holds, so that the program still writes when the reader is gone.
  for (int i = 0; i < 64; ++i) script.messages.push_back(TextMessage(std::string(16384, 'x'), i));
  script.hold_open = true;
  server.AddStream(std::move(script));
  Process process(server.address(), {"generate", "--prompt", "x"});
  ASSERT_EQ(process.ReadOutput(1), "x");
  process.CloseOutput();
  EXPECT_EQ(process.ReadErrors(), "");
  EXPECT_EQ(process.Wait(), 4);
  EXPECT_TRUE(server.WaitForCancelledStreams(1));
}

TEST(SpotlightProcessTest, TheServerComesFromTheEnvironment) {
  FakeGenerationServer server;
  server.set_text("there");
  Process process(server.address(), {"detokenize", "--token-ids", "1"});
  EXPECT_EQ(process.ReadOutput(6), "there\n");
  EXPECT_EQ(process.Wait(), 0);
}

}  // namespace
}  // namespace spotlight::testing
