// Which memory a buffer gets, on the kinds of devices that there are. Software devices have one type, so that this
// needs none.
#include <gtest/gtest.h>

#include "runtime/vulkan/device_buffer.h"

namespace nwc {
namespace {

constexpr VkMemoryPropertyFlags kLocal = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT,
                                kVisible = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT,
                                kCoherent = VK_MEMORY_PROPERTY_HOST_COHERENT_BIT,
                                kCached = VK_MEMORY_PROPERTY_HOST_CACHED_BIT;

VkPhysicalDeviceMemoryProperties memory_of(std::initializer_list<VkMemoryPropertyFlags> types) {
  VkPhysicalDeviceMemoryProperties memory{};
  for (const VkMemoryPropertyFlags flags : types) memory.memoryTypes[memory.memoryTypeCount++].propertyFlags = flags;
  return memory;
}

uint32_t first_type(const VkPhysicalDeviceMemoryProperties& memory, MemoryKind kind, uint32_t allowed = UINT32_MAX) {
  const std::vector<uint32_t> types = candidate_types(memory, allowed, kind);
  return types.empty() ? UINT32_MAX : types[0];
}

// A discrete GPU: its own memory, the host's without and with the host's caches, and its own as the host sees it over
// the bus.
TEST(MemoryTypes, DiscreteGpu) {
  const auto memory =
      memory_of({0, kLocal, kVisible | kCoherent, kVisible | kCoherent | kCached, kLocal | kVisible | kCoherent});
  EXPECT_EQ(first_type(memory, MemoryKind::kDevice), 1u);
  EXPECT_EQ(first_type(memory, MemoryKind::kUpload), 3u) << "the host reads there, too";
  EXPECT_EQ(first_type(memory, MemoryKind::kReadback), 3u);
  EXPECT_EQ(candidate_types(memory, UINT32_MAX, MemoryKind::kUpload), (std::vector<uint32_t>{3, 2, 4}));
  EXPECT_EQ(first_type(memory, MemoryKind::kUpload, 0b10111), 2u) << "what the buffer cannot have is left out";
}

// One memory for both, coherent without caches or cached and to be flushed.
TEST(MemoryTypes, SharedMemory) {
  const auto memory = memory_of({kLocal | kVisible | kCoherent, kLocal | kVisible | kCached});
  EXPECT_EQ(first_type(memory, MemoryKind::kUpload), 0u);
  EXPECT_EQ(first_type(memory, MemoryKind::kReadback), 1u);
}

TEST(MemoryTypes, NothingThatTheHostSees) {
  const auto memory = memory_of({kLocal, VK_MEMORY_PROPERTY_PROTECTED_BIT | kVisible});
  EXPECT_EQ(first_type(memory, MemoryKind::kDevice), 0u);
  EXPECT_TRUE(candidate_types(memory, UINT32_MAX, MemoryKind::kReadback).empty());
}

}  // namespace
}  // namespace nwc
