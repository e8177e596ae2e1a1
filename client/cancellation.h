// Ends calls from another thread.
#pragma once

#include <mutex>
#include <set>

#include "grpcpp/client_context.h"

namespace spotlight::client {

// Once cancelled it stays so: a call that starts later ends at once. Thread-safe, not for signal handlers (see
// interrupts.h). Outlives the calls it is given to.
class Cancellation {
 public:
  void Cancel();
  bool cancelled() const;

  // Makes Cancel() end the call of `context` while in scope.
  class Scope {
   public:
    Scope(Cancellation* cancellation, grpc::ClientContext* context);  // `cancellation` may be null
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Cancellation* cancellation_;
    grpc::ClientContext* context_;
  };

 private:
  mutable std::mutex mutex_;
  bool cancelled_ = false;
  std::set<grpc::ClientContext*> contexts_;
};

}  // namespace spotlight::client
