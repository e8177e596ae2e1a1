#include "server/request_reads.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpc/support/alloc.h"
#include "server/received_bytes.h"

namespace spotlight::server {
namespace {

// How often messages are looked at that take longer than this. At 10 Gb/s 25 MB come in that time.
constexpr std::chrono::milliseconds kInterval(20);
// Looking through the sockets takes at most this share of a core.
constexpr int kMinIntervalsPerLook = 20;
// What a connection may receive beside messages, for each call that ends, in all and a second: headers, frames, pings,
// requests of calls that were refused by their headers.
constexpr int64_t kCallOverheadBytes = 16 << 10;
constexpr int64_t kConnectionOverheadBytes = 4 << 20;
constexpr double kOverheadBytesPerSecond = 256 << 10;

absl::Status TooManyWait(int64_t callers, int64_t all) {
  return absl::ResourceExhaustedError(
      absl::StrCat("request_reads: ", all, " requests wait to be read, ", callers, " of them this caller's"));
}

}  // namespace

RequestReads::RequestReads(const Bounds& bounds) : bounds_(bounds) {
  if (bounds_.callers.patience > absl::ZeroDuration() || bounds_.anyone.patience > absl::ZeroDuration() ||
      bounds_.received_bytes) {
    thread_ = std::thread([this] { Watch(); });
  }
}

RequestReads::~RequestReads() {
  Stop();
}

void RequestReads::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wakes_.NotifyAll();
  if (thread_.joinable()) thread_.join();
}

void RequestReads::Begin(Request* request, Room room, const std::string& caller, grpc_call* call) {
  absl::Status refused;
  bool starts = false;
  bool wakes = false;
  {
    MutexLock lock(&mutex_);
    Places& places = PlacesOf(room);
    const auto found = places.callers.try_emplace(caller).first;
    Caller& own = found->second;
    starts = own.waiting.empty() && MayRead(room, own);
    if (!starts && static_cast<int64_t>(own.waiting.size()) >= BoundsOf(room).num_waiting - places.num_waiting) {
      refused = TooManyWait(own.waiting.size(), places.num_waiting);
      request->state_ = Request::State::kEnded;
    } else {
      request->room_ = room;
      request->caller_ = caller;
      request->call_ = call;
      request->begin_ = std::chrono::steady_clock::now();
      request->position_ = requests_.insert(requests_.end(), request);
      if (starts) {
        TakePlace(request, &own);
      } else {
        request->state_ = Request::State::kWaiting;
        if (own.waiting.empty()) places.turns.push_back(&own);
        request->waiting_position_ = own.waiting.insert(own.waiting.end(), request);
        ++places.num_waiting;
      }
      wakes = std::exchange(watch_sleeps_, false);
    }
    if (own.num_reading == 0 && own.waiting.empty()) places.callers.erase(found);
  }
  if (wakes) wakes_.NotifyAll();
  if (starts) request->StartReading();
  if (!refused.ok()) request->RefuseReading(refused);
}

void RequestReads::TakePlace(Request* request, Caller* caller) {
  request->state_ = Request::State::kReading;
  ++caller->num_reading;
  ++PlacesOf(request->room_).num_reading;
}

void RequestReads::StopWaiting(Request* request) {
  Places& places = PlacesOf(request->room_);
  const auto found = places.callers.find(request->caller_);
  Caller& own = found->second;
  own.waiting.erase(request->waiting_position_);
  --places.num_waiting;
  requests_.erase(request->position_);
  request->state_ = Request::State::kEnded;
  if (!own.waiting.empty()) return;
  places.turns.remove(&own);
  if (own.num_reading == 0) places.callers.erase(found);
}

bool RequestReads::Leave(Request* request) {
  MutexLock lock(&mutex_);
  if (request->state_ != Request::State::kWaiting) return false;
  StopWaiting(request);
  return true;
}

std::vector<RequestReads::Request*> RequestReads::LetIn(Room room) {
  Places& places = PlacesOf(room);
  std::vector<Request*> started;
  for (auto turn = places.turns.begin();
       turn != places.turns.end() && places.num_reading < BoundsOf(room).num_reading;) {
    Caller* const caller = *turn;
    if (!MayRead(room, *caller)) {
      ++turn;
      continue;
    }
    started.push_back(caller->waiting.front());
    caller->waiting.pop_front();
    --places.num_waiting;
    TakePlace(started.back(), caller);
    turn = places.turns.erase(turn);
    if (!caller->waiting.empty()) places.turns.push_back(caller);
  }
  return started;
}

absl::Status RequestReads::End(Request* request) {
  std::vector<Request*> started;
  absl::Status status;
  {
    MutexLock lock(&mutex_);
    request->state_ = Request::State::kEnded;
    requests_.erase(request->position_);
    if (!connections_.empty()) CountEnded(request);
    status = std::move(request->given_up_);
    Places& places = PlacesOf(request->room_);
    const auto found = places.callers.find(request->caller_);
    if (--found->second.num_reading == 0 && found->second.waiting.empty()) places.callers.erase(found);
    --places.num_reading;
    if (places.num_waiting > 0) started = LetIn(request->room_);
  }
  // None of them can end before it has begun.
  for (Request* const next : started) next->StartReading();
  return status;
}

void RequestReads::CountEnded(Request* request) {
  const auto found = connections_.find(ConnectionName(request));
  if (found == connections_.end()) return;
  // What had come of one that never was whole is freed, whatever it was.
  const bool was_whole = request->num_bytes_ != Request::kNeverWhole;
  const int64_t bytes = was_whole ? request->num_bytes_ : BoundsOf(request->room_).max_message_bytes;
  found->second.ended_bytes += bytes + kCallOverheadBytes;
}

void RequestReads::GiveUp(Request* request, const absl::Status& status, Ended* ended) {
  if (request->state_ == Request::State::kWaiting) {
    StopWaiting(request);
    ended->waiting.push_back(request);
  } else if (request->given_up_.ok() && !request->whole_.load(std::memory_order_acquire)) {
    request->given_up_ = status;
    ended->reading.push_back(request->call_);
    grpc_call_ref(request->call_);  // it may end as soon as the lock is free
  }
}

void RequestReads::Tell(const Ended& ended, const absl::Status& waiting_status, const absl::Status& reading_status) {
  for (Request* const request : ended.waiting) request->RefuseReading(waiting_status);
  // Not by the reactor's Finish, which keeps what has come until the client has taken the status.
  const std::string message(reading_status.message());
  for (grpc_call* const call : ended.reading) {
    grpc_call_cancel_with_status(call, static_cast<grpc_status_code>(reading_status.code()), message.c_str(), nullptr);
    grpc_call_unref(call);
  }
}

void RequestReads::EndAll(Room room, const absl::Status& status) {
  Ended ended;
  {
    MutexLock lock(&mutex_);
    const std::vector<Request*> requests(requests_.begin(), requests_.end());
    for (Request* const request : requests) {
      if (request->room_ == room) GiveUp(request, status, &ended);
    }
  }
  Tell(ended, status, status);
}

void RequestReads::Watch() {
  auto interval = std::chrono::nanoseconds(kInterval);
  while (true) {
    {
      MutexLock lock(&mutex_);
      while (requests_.empty() && !stopping_) {
        watch_sleeps_ = true;
        wakes_.Wait(&mutex_);
      }
      if (!stopping_) wakes_.WaitFor(&mutex_, interval);
      if (stopping_) return;
    }
    const auto begin = std::chrono::steady_clock::now();
    for (const Room room : {Room::kCallers, Room::kAnyone}) {
      if (BoundsOf(room).patience > absl::ZeroDuration()) EndLateRequests(room);
    }
    if (bounds_.received_bytes) EndOversizedRequests();
    interval = std::max<std::chrono::nanoseconds>(kInterval,
                                                  kMinIntervalsPerLook * (std::chrono::steady_clock::now() - begin));
  }
}

void RequestReads::EndLateRequests(Room room) {
  const absl::Duration patience = BoundsOf(room).patience;
  const absl::Status never_began =
      absl::ResourceExhaustedError(absl::StrCat("request_reads: the request waited ", absl::FormatDuration(patience),
                                                " to be read, behind others that do not come to their ends"));
  const absl::Status late = absl::DeadlineExceededError(
      absl::StrCat("request_reads: the request was not whole ", absl::FormatDuration(patience),
                   " after its call had begun", room == Room::kCallers ? " (--request-read-seconds)" : ""));
  const auto latest = std::chrono::steady_clock::now() - absl::ToChronoNanoseconds(patience);
  Ended ended;
  {
    MutexLock lock(&mutex_);
    for (auto each = requests_.begin(); each != requests_.end() && (*each)->begin_ <= latest;) {
      Request* const request = *each++;
      if (request->room_ == room) GiveUp(request, late, &ended);
    }
  }
  Tell(ended, never_began, late);
}

bool RequestReads::IsGathered(const Request& request) const {
  return request.state_ == Request::State::kReading && request.given_up_.ok() &&
         !request.whole_.load(std::memory_order_relaxed);
}

const std::string& RequestReads::ConnectionName(Request* request) {
  if (request->connection_.empty()) {
    char* const peer = grpc_call_get_peer(request->call_);
    request->connection_ = ConnectionOf(peer);
    gpr_free(peer);
  }
  return request->connection_;
}

bool RequestReads::CountUnderWay() {
  const auto late = std::chrono::steady_clock::now() - kInterval;
  const bool any_late = std::any_of(requests_.begin(), requests_.end(),
                                    [&](const Request* each) { return IsGathered(*each) && each->begin_ <= late; });
  if (!any_late) {
    connections_.clear();
    return false;
  }
  for (auto& [name, connection] : connections_) connection.bound_bytes = connection.num_gathered = 0;
  // What is whole or given up stays until its call has taken or dropped it.
  for (Request* const each : requests_) {
    if (each->state_ != Request::State::kReading) continue;
    Connection& connection = connections_[ConnectionName(each)];
    connection.bound_bytes += BoundsOf(each->room_).max_message_bytes;
    if (IsGathered(*each)) ++connection.num_gathered;
  }
  for (auto each = connections_.begin(); each != connections_.end();) {
    each = each->second.num_gathered == 0 ? connections_.erase(each) : std::next(each);
  }
  return true;
}

int64_t RequestReads::ExcessOf(int64_t received_bytes, Connection* connection) {
  const auto now = std::chrono::steady_clock::now();
  if (connection->since == std::chrono::steady_clock::time_point()) {
    connection->received_before = received_bytes;
    connection->since = now;
  }
  const double overhead = std::chrono::duration<double>(now - connection->since).count() * kOverheadBytesPerSecond;
  const int64_t gathered = received_bytes - connection->received_before - connection->ended_bytes;
  return std::max<int64_t>(0, gathered - connection->bound_bytes - kConnectionOverheadBytes - std::llround(overhead));
}

void RequestReads::EndOversizedRequests() {
  {
    MutexLock lock(&mutex_);
    if (!CountUnderWay()) return;
  }
  const auto received = bounds_.received_bytes();
  const absl::Status oversized =
      absl::ResourceExhaustedError("request_bytes: the connection has brought more than its calls' messages may have");
  Ended ended;
  {
    MutexLock lock(&mutex_);
    int64_t excess = 0, most = 0;
    auto worst = connections_.end();
    for (auto each = connections_.begin(); each != connections_.end(); ++each) {
      const auto found = received.find(each->first);
      if (found == received.end()) continue;  // it has just ended
      const int64_t own = ExcessOf(found->second, &each->second);
      excess += own;
      if (own > most) worst = each;
      most = std::max(most, own);
    }
    if (excess <= bounds_.max_excess_bytes) return;
    for (Request* const each : requests_) {
      if (IsGathered(*each) && ConnectionName(each) == worst->first) GiveUp(each, oversized, &ended);
    }
    connections_.erase(worst);  // what is left on it is counted anew
  }
  Tell(ended, oversized, oversized);
}

}  // namespace spotlight::server
