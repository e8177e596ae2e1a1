// Preloaded, as a profiler is: has a thread from before main, which blocks no signal.
#include <pthread.h>
#include <unistd.h>

#include <thread>

namespace {

__attribute__((constructor)) void StartThread() {
  std::thread([] {
    pthread_setname_np(pthread_self(), "early");
    for (;;) pause();
  }).detach();
}

}  // namespace
