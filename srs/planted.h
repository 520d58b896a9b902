// srs/planted.h - mistakes that the simulation must find, for its own build only.
//
// The sources of srs are compiled once more for tests/sim with EDGE_SRS_PLANTED; there one
// of these may be switched on. Everywhere else Planted() is a constant false.
#pragma once
#include <cstdint>

namespace edge::srs {

enum class Bug : uint8_t {
  kNone,
  // Followers
  kAckBeforeSync,
  kPromiseNotPersisted,
  kPromiseIgnored,
  kGapAccepted,
  kChainUnchecked,
  kConflictKept,
  kOldestWinsAtRecovery,
  kTrimUnmatched,
  kTrimConfirmed,
  kLeaseForgottenAtRestart,
  kWelcomeDuringLease,
  kAckWholeLog,
  kLiveFileRecycled,
  kCheckpointForgotten,
  kFetchSkipsOne,
  kOldSessionServed,
  // Hosts
  kQuorumOneShort,
  kServeBeforeReconfirm,
  kSealOneShort,
  kLongestLogChosen,
  kFirstLogChosen,
  kTailDropped,
  kRegisterOverwritten,
  kActivatedWithoutRegister,
  kFencedHostGoesOn,
  kLeaseFromReply,
  kBarrierOfOldBeat,
  kBarrierOneShort,
  kUnknownFollowerCounts,
  kConflictingLogKept,
  kStaleCacheKept,
  kUnconfirmedUploaded,
  kPersistedTooEarly,
  kConfirmedWhenJournalled,
  kAcksSurviveReconnect,
  kSealedByNewSet,
  // Journal
  kFailedFileReused,
  kChecksumIgnored,
  kCount,
};

#ifdef EDGE_SRS_PLANTED
extern Bug planted_bug;  // set by the simulation, which has one thread
inline bool Planted(Bug bug) {
  return planted_bug == bug;
}
#else
constexpr bool Planted(Bug) {
  return false;
}
#endif

}  // namespace edge::srs
