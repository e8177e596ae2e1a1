#include "client/bench/load_run.h"

#include <sys/prctl.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "client/bench/arrivals.h"
#include "client/bench/stream_call.h"

namespace spotlight::client::bench {
namespace {

// How soon a cancel is seen while nothing else happens.
constexpr std::chrono::milliseconds kLongestWait(50);
constexpr double kProgressSeconds = 1;

class Load {
 public:
  Load(const LoadOptions& options, const Workload& workload,
       const std::vector<std::shared_ptr<grpc::Channel>>& channels, Cancellation* cancellation,
       const std::function<void(const LoadProgress&)>& on_progress)
      : options_(options),
        workload_(workload),
        cancellation_(cancellation),
        on_progress_(on_progress),
        arrivals_(options.request_rate, options.burstiness, options.seed),
        start_(Clock::now()) {
    for (const auto& channel : channels) stubs_.push_back(v1::Generation::NewStub(channel));
  }

  std::vector<RequestRecord> Run() {
    while (progress_.sent < options_.num_requests && !cancellation_->cancelled()) {
      const double due = arrivals_.Next();
      // Made while there is time: a prompt of many tokens takes a while.
      WorkItem item = workload_.Make(options_.first_index + progress_.sent);
      if (due > options_.duration_seconds || !WaitForTurn(due)) break;
      Send(std::move(item), due);
    }
    while (progress_.ended < progress_.sent) Collect(Clock::now() + kLongestWait);
    return std::move(records_);
  }

 private:
  double Now() const { return SecondsBetween(start_, Clock::now()); }

  Clock::time_point At(double seconds) const {
    return start_ + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
  }

  // False: cancelled, or too late to send.
  bool WaitForTurn(double due) {
    for (;;) {
      if (cancellation_->cancelled()) return false;
      const double now = Now();
      if (now >= options_.duration_seconds && !options_.is_open_loop()) return false;
      const bool is_free = options_.max_concurrency == 0 || progress_.sent - progress_.ended < options_.max_concurrency;
      if (now >= due && is_free) return true;
      const Clock::time_point latest = Clock::now() + kLongestWait;
      Collect(now < due ? std::min(At(due), latest) : latest);
    }
  }

  void Send(WorkItem item, double due) {
    const double intended = options_.is_open_loop() ? due : Now();
    auto* call = new StreamCall(std::move(item), start_, intended, cancellation_, &counts_, [this](StreamCall* done) {
      std::lock_guard<std::mutex> lock(mutex_);
      done_.push_back(done);
      changed_.notify_one();
    });
    v1::Generation::Stub* stub = stubs_[progress_.sent % stubs_.size()].get();
    ++progress_.sent;
    call->Start(stub, options_.deadline);
  }

  // Waits for `until` or the end of a call, and takes in the calls that have ended.
  void Collect(Clock::time_point until) {
    std::vector<StreamCall*> done;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait_until(lock, until, [this] { return !done_.empty(); });
      done.swap(done_);
    }
    for (StreamCall* call : done) {
      ++progress_.ended;
      if (call->record().failed()) ++progress_.failed;
      records_.push_back(std::move(call->record()));
      delete call;
    }
    Report();
  }

  void Report() {
    const double now = Now();
    if (on_progress_ == nullptr || now < progress_.seconds + kProgressSeconds) return;
    progress_.seconds = now;
    progress_.tokens = counts_.tokens.load(std::memory_order_relaxed);
    on_progress_(progress_);
  }

  const LoadOptions& options_;
  const Workload& workload_;
  Cancellation* const cancellation_;
  const std::function<void(const LoadProgress&)>& on_progress_;
  Arrivals arrivals_;
  const Clock::time_point start_;
  std::vector<std::unique_ptr<v1::Generation::Stub>> stubs_;
  std::vector<RequestRecord> records_;
  LoadProgress progress_;
  LiveCounts counts_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<StreamCall*> done_;  // guarded by mutex_
};

}  // namespace

std::vector<RequestRecord> RunLoad(const LoadOptions& options, const Workload& workload,
                                   const std::vector<std::shared_ptr<grpc::Channel>>& channels,
                                   Cancellation* cancellation,
                                   const std::function<void(const LoadProgress&)>& on_progress) {
  // The kernel lets a sleeper oversleep by 50 us unless told otherwise.
  prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);
  return Load(options, workload, channels, cancellation, on_progress).Run();
}

}  // namespace spotlight::client::bench
