// Which calls' requests are read now, and which wait for that.
//
// gRPC gathers a message in memory as soon as it is asked for one, whatever its size is to be, and shows it when it is
// whole. Before it is asked it takes no more of it than a stream's window, 256 KB. So a call asks here first: few
// messages are gathered at a time, whoever sends them, the others' senders are held up by their windows, and a message
// that does not come to its end ends its call. What is under way so stays far below the memory at which gRPC would
// cancel streams without asking whose they are.
//
// Nobody bounds what one message grows to before gRPC compares its size with the bound, as nothing tells how much has
// come. So messages that take their time are watched by what the kernel says that their connections have received
// beyond what the messages on them may have. Where that is much, all connections together, somebody lies about a
// message: the connection with most of it loses those under way.
//
// Of the places to read in, as of those to wait in, a caller may have as many as it leaves free: half of them when it
// is alone, a third each for two. Who waits is let in by turns of callers.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "grpc/grpc.h"

namespace spotlight::server {

// Thread-safe. Outlives its requests.
class RequestReads {
 public:
  // Apart, so that who needs no token keeps nobody out who needs one.
  enum class Room : uint8_t { kCallers, kAnyone };

  struct RoomBounds {
    int64_t num_reading = 64;    // each may hold a message of any size that is let in
    int64_t num_waiting = 4096;  // each may hold a stream's window
    int64_t max_message_bytes = 16 << 20;
    absl::Duration patience;  // for a message to be whole, from the call's beginning; 0: for ever
  };
  struct Bounds {
    RoomBounds callers;
    RoomBounds anyone;
    // What connections may have received beyond their messages, together.
    int64_t max_excess_bytes = 64 << 20;
    // By connection, as ConnectionOf names it (received_bytes.h); null: nothing is known.
    std::function<std::unordered_map<std::string, int64_t>()> received_bytes;
  };

  // One call's request, which outlives what is between Begin and End.
  class Request {
   public:
    virtual ~Request() = default;

   protected:
    // One of these comes once, on any thread, unless Leave has been told true.
    virtual void StartReading() = 0;
    virtual void RefuseReading(const absl::Status& status) = 0;

    // Nothing of it is missing: no patience is needed any more.
    void SetWhole(int64_t num_bytes) {
      num_bytes_ = num_bytes;
      whole_.store(true, std::memory_order_release);
    }

   private:
    friend class RequestReads;
    enum class State { kNone, kWaiting, kReading, kEnded };
    static constexpr int64_t kNeverWhole = -1;

    State state_ = State::kNone;  // this and what follows under the lock of the reads
    Room room_ = Room::kCallers;
    std::string caller_;
    grpc_call* call_ = nullptr;
    std::chrono::steady_clock::time_point begin_;
    std::list<Request*>::iterator position_;          // among all
    std::list<Request*>::iterator waiting_position_;  // among its caller's
    std::string connection_;                          // empty: not asked for yet
    absl::Status given_up_;
    int64_t num_bytes_ = kNeverWhole;
    std::atomic<bool> whole_{false};
  };

  explicit RequestReads(const Bounds& bounds);
  ~RequestReads();
  RequestReads(const RequestReads&) = delete;
  RequestReads& operator=(const RequestReads&) = delete;

  // StartReading or RefuseReading comes now or later. RESOURCE_EXHAUSTED "request_reads: ...": too many of the
  // caller's, or of all, wait. `call` is gRPC's, of which the reading is a part.
  void Begin(Request* request, Room room, const std::string& caller, grpc_call* call);

  // The client is gone. True: the request was waiting, and is forgotten; else its end comes as it would.
  bool Leave(Request* request);

  // Once after StartReading, when the message was taken or is not to come. Not OK: why it was ended from here.
  absl::Status End(Request* request);

  // Watches no more; before gRPC itself ends.
  void Stop();

  // Ends all of a room that are not whole, with this status.
  void EndAll(Room room, const absl::Status& status);

 private:
  struct Caller {
    int64_t num_reading = 0;
    std::list<Request*> waiting;
  };
  struct Places {
    int64_t num_reading = 0;
    int64_t num_waiting = 0;
    std::unordered_map<std::string, Caller> callers;
    std::list<Caller*> turns;  // of callers whose requests wait
  };
  // A connection with messages that take their time.
  struct Connection {
    int64_t bound_bytes = 0;                      // of the messages that are read or taken
    int64_t num_gathered = 0;                     // of them, those that are not whole
    int64_t received_before = 0;                  // when it was first looked at
    int64_t ended_bytes = 0;                      // of messages that came to their ends since
    std::chrono::steady_clock::time_point since;  // received_before's; none: nobody has looked
  };
  // What is to be done when the lock is free.
  struct Ended {
    std::vector<Request*> waiting;
    std::vector<grpc_call*> reading;
  };

  const RoomBounds& BoundsOf(Room room) const { return room == Room::kCallers ? bounds_.callers : bounds_.anyone; }
  Places& PlacesOf(Room room) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return room == Room::kCallers ? callers_ : anyone_;
  }
  bool MayRead(Room room, const Caller& caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return caller.num_reading < BoundsOf(room).num_reading - PlacesOf(room).num_reading;
  }
  void TakePlace(Request* request, Caller* caller) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StopWaiting(Request* request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<Request*> LetIn(Room room) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void GiveUp(Request* request, const absl::Status& status, Ended* ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void Tell(const Ended& ended, const absl::Status& waiting_status, const absl::Status& reading_status);
  bool IsGathered(const Request& request) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  const std::string& ConnectionName(Request* request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CountEnded(Request* request) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool CountUnderWay() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static int64_t ExcessOf(int64_t received_bytes, Connection* connection);
  void Watch();
  void EndLateRequests(Room room);
  void EndOversizedRequests();

  const Bounds bounds_;
  Mutex mutex_;
  CondVar wakes_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool watch_sleeps_ ABSL_GUARDED_BY(mutex_) = false;     // until there is a request
  std::list<Request*> requests_ ABSL_GUARDED_BY(mutex_);  // the oldest first
  Places callers_ ABSL_GUARDED_BY(mutex_);
  Places anyone_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<std::string, Connection> connections_ ABSL_GUARDED_BY(mutex_);
  std::thread thread_;
};

}  // namespace spotlight::server
