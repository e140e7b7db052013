// Compute pipelines. Each is made when it is first asked for, and kept.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "runtime/vulkan/pipeline_file.h"
#include "runtime/vulkan/shader_registry.h"

namespace nwc {

struct PipelineKey {
  ShaderId shader{};
  std::vector<uint32_t> constants;      ///< specialization constants 0, 1, ...
  uint32_t required_subgroup_size = 0;  ///< 0: any; else the device must have size control

  bool operator<(const PipelineKey& other) const;
};

class PipelineCache {
 public:
  /// cache_directory: where compiled pipelines are kept from run to run (pipeline_file.h); empty: nowhere. What goes
  /// wrong there costs a log line, and that the driver compiles.
  static Result<std::unique_ptr<PipelineCache>> create(VulkanDevice& device, const std::string& cache_directory = {});
  ~PipelineCache();
  PipelineCache(const PipelineCache&) = delete;
  PipelineCache& operator=(const PipelineCache&) = delete;

  /// Thread-safe.
  Result<VkPipeline> get(const PipelineKey& key);
  /// Writes the file if there is something new. The destructor does it, too; a process may end without one.
  /// Thread-safe.
  void save();
  VkPipelineLayout layout() const { return layout_; }
  VkDescriptorSetLayout set_layout() const { return set_layout_; }

 private:
  explicit PipelineCache(VulkanDevice& device) : device_(device) {}
  Result<VkShaderModule> shader_module(ShaderId id);
  void load_file(const std::string& cache_directory);

  VulkanDevice& device_;
  VkDescriptorSetLayout set_layout_ = VK_NULL_HANDLE;
  VkPipelineLayout layout_ = VK_NULL_HANDLE;
  std::mutex mutex_;
  std::map<ShaderId, VkShaderModule> modules_;
  std::map<PipelineKey, VkPipeline> pipelines_;
  // The driver's side of the file: none without a file.
  VkPipelineCache driver_cache_ = VK_NULL_HANDLE;
  std::optional<PipelineFile> file_;
  uint64_t stored_size_ = 0;  ///< of what the file holds
  uint32_t stored_crc_ = 0;
  bool unsaved_ = false;  ///< pipelines have been made since
};

}  // namespace nwc
