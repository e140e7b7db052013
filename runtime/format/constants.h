// Numbers of the container (doc/format.md). A change here is a change of the format.
#pragma once

#include <cstdint>

namespace nwc {

inline constexpr uint8_t kMagic[8] = {0x89, 'N', 'W', 'C', '\r', '\n', 0x1a, '\n'};
inline constexpr uint16_t kVersionMajor = 1;
inline constexpr uint16_t kVersionMinor = 6;
inline constexpr uint32_t kHeaderBytes = 64;
inline constexpr uint32_t kSectionEntryBytes = 48;

enum class FileKind : uint32_t { kModel = 1, kCodec = 2, kCheckpoint = 3 };

enum class SectionType : uint32_t {
  kCodec = 1,
  kModel = 2,
  kTokenizer = 3,
  kTensors = 4,
  kProvenance = 5,
  kQuality = 6,
  kData = 7,
  kSource = 8,
  kChat = 9,
  kAnalysis = 16,
  kTraining = 17,
};
inline constexpr uint32_t kSectionDeflated = 1;
inline constexpr uint32_t kSectionOptional = 2;

inline constexpr uint32_t kChunk = 16;        ///< rows of a chunk = channels of a latent vector (paper, section 3.1)
inline constexpr uint32_t kNumContexts = 16;  ///< second index of the context map: channels or row classes
inline constexpr uint32_t kNumLanes = 32;
inline constexpr uint32_t kMaxGap = 4096;  ///< zero bytes between two sections or tensors: fewer than this

// Section 10.
inline constexpr uint32_t kMaxSections = 64;
inline constexpr uint64_t kMaxMetadataBytes = 256u << 20;
inline constexpr uint32_t kMaxTensors = 1u << 20;
inline constexpr uint64_t kMaxDimension = (1ull << 31) - 1;
inline constexpr uint64_t kMaxTensorElements = 1ull << 40;
inline constexpr uint64_t kMaxRawBytes = 1ull << 40;
inline constexpr uint32_t kMaxTileRows = 4096;
inline constexpr uint32_t kMaxTileCols = 512;
inline constexpr uint32_t kMaxTileWeights = 65536;
inline constexpr uint32_t kMaxNameBytes = 1024;
inline constexpr uint32_t kMaxValueBytes = 16u << 20;
inline constexpr uint32_t kMaxEntries = 65536;
inline constexpr uint32_t kMaxRank = 64;
inline constexpr uint32_t kMaxSplit = 8;  ///< leading dimensions that a coded tensor's rows may stand for

// Codec (section 4).
inline constexpr uint32_t kMaxLevels = 64;
inline constexpr uint32_t kMaxTables = 1024;
inline constexpr uint32_t kMaxWidth = 1024;
inline constexpr uint32_t kMaxBlocks = 8;
inline constexpr uint32_t kMaxAlphabet = 128;
inline constexpr uint32_t kMaxRawBits = 7;
inline constexpr uint32_t kProbBits = 12;
inline constexpr uint32_t kProbScale = 1u << kProbBits;
inline constexpr uint32_t kRansLow = 1u << 16;  ///< states are in [2^16, 2^32)

}  // namespace nwc
