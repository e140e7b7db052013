#include "runtime/vulkan/pipeline.h"

#include <tuple>

#include "runtime/base/str_cat.h"
#include "runtime/format/container.h"

namespace nwc {

bool PipelineKey::operator<(const PipelineKey& other) const {
  return std::tie(shader, required_subgroup_size, constants) <
         std::tie(other.shader, other.required_subgroup_size, other.constants);
}

Result<std::unique_ptr<PipelineCache>> PipelineCache::create(VulkanDevice& device, const std::string& cache_directory) {
  std::unique_ptr<PipelineCache> self(new PipelineCache(device));
  VkDescriptorSetLayoutBinding bindings[kShaderBuffers] = {};
  for (uint32_t i = 0; i < kShaderBuffers; ++i) {
    bindings[i].binding = i;
    bindings[i].descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    bindings[i].descriptorCount = 1;
    bindings[i].stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
  }
  VkDescriptorSetLayoutCreateInfo set{};
  set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
  set.bindingCount = kShaderBuffers;
  set.pBindings = bindings;
  NWC_TRY(vk_status(device.fn().vkCreateDescriptorSetLayout(device.handle(), &set, nullptr, &self->set_layout_),
                    "vkCreateDescriptorSetLayout"));
  VkPushConstantRange range{};
  range.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT;
  range.size = kPushConstantBytes;
  VkPipelineLayoutCreateInfo layout{};
  layout.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
  layout.setLayoutCount = 1;
  layout.pSetLayouts = &self->set_layout_;
  layout.pushConstantRangeCount = 1;
  layout.pPushConstantRanges = &range;
  NWC_TRY(vk_status(device.fn().vkCreatePipelineLayout(device.handle(), &layout, nullptr, &self->layout_),
                    "vkCreatePipelineLayout"));
  if (device.info().pipeline_cache && !cache_directory.empty()) self->load_file(cache_directory);
  return self;
}

void PipelineCache::load_file(const std::string& cache_directory) {
  const Logger& log = device_.instance().log();
  file_.emplace(cache_directory, device_.info());
  auto loaded = file_->load();
  std::vector<uint8_t> data;
  if (loaded.ok()) {
    data = std::move(loaded).value();
    stored_size_ = data.size();
    stored_crc_ = crc32(data);
    log.log(LogLevel::kInfo, str_cat("compiled Vulkan kernels: ", data.size(), " bytes from ", file_->path()));
  } else if (loaded.status().code() != StatusCode::kNotFound) {
    log.log(LogLevel::kWarning, str_cat("compiled Vulkan kernels are made anew: ", loaded.status().message()));
  }
  VkPipelineCacheCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO;
  info.initialDataSize = data.size();
  info.pInitialData = data.data();
  const DeviceFunctions& fn = device_.fn();
  VkResult result = fn.vkCreatePipelineCache(device_.handle(), &info, nullptr, &driver_cache_);
  if (result != VK_SUCCESS && !data.empty()) {
    stored_size_ = info.initialDataSize = 0;
    result = fn.vkCreatePipelineCache(device_.handle(), &info, nullptr, &driver_cache_);
  }
  if (result != VK_SUCCESS) {
    log.log(LogLevel::kWarning, str_cat("compiled Vulkan kernels are not kept: ", vk_result_name(result)));
    driver_cache_ = VK_NULL_HANDLE;
  }
}

void PipelineCache::save() {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!unsaved_ || driver_cache_ == VK_NULL_HANDLE || device_.lost()) return;
  unsaved_ = false;
  const DeviceFunctions& fn = device_.fn();
  size_t size = 0;
  VkResult result = fn.vkGetPipelineCacheData(device_.handle(), driver_cache_, &size, nullptr);
  // Nobody else uses the cache, so that its size stays; a driver that promises too much gets no more.
  std::vector<uint8_t> data(result == VK_SUCCESS && size <= PipelineFile::kMaxDataBytes ? size : 0);
  if (!data.empty()) result = fn.vkGetPipelineCacheData(device_.handle(), driver_cache_, &size, data.data());
  if (data.empty() || result != VK_SUCCESS || size > data.size()) return;
  data.resize(size);
  const uint32_t crc = crc32(data);
  if (size == stored_size_ && crc == stored_crc_) return;
  const Logger& log = device_.instance().log();
  if (const Status status = file_->store(data); !status.ok()) {
    log.log(LogLevel::kWarning, str_cat("compiled Vulkan kernels are not kept: ", status.message()));
  } else {
    log.log(LogLevel::kInfo, str_cat("compiled Vulkan kernels: ", data.size(), " bytes to ", file_->path()));
    stored_size_ = size;
    stored_crc_ = crc;
  }
}

PipelineCache::~PipelineCache() {
  if (device_.abandoned()) return;
  save();
  const DeviceFunctions& fn = device_.fn();
  if (driver_cache_ != VK_NULL_HANDLE) fn.vkDestroyPipelineCache(device_.handle(), driver_cache_, nullptr);
  for (const auto& [key, pipeline] : pipelines_) fn.vkDestroyPipeline(device_.handle(), pipeline, nullptr);
  for (const auto& [id, module] : modules_) fn.vkDestroyShaderModule(device_.handle(), module, nullptr);
  if (layout_ != VK_NULL_HANDLE) fn.vkDestroyPipelineLayout(device_.handle(), layout_, nullptr);
  if (set_layout_ != VK_NULL_HANDLE) fn.vkDestroyDescriptorSetLayout(device_.handle(), set_layout_, nullptr);
}

Result<VkShaderModule> PipelineCache::shader_module(ShaderId id) {
  const auto found = modules_.find(id);
  if (found != modules_.end()) return found->second;
  const std::span<const uint32_t> code = shader_code(id);
  VkShaderModuleCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
  info.codeSize = code.size_bytes();
  info.pCode = code.data();
  VkShaderModule module = VK_NULL_HANDLE;
  NWC_TRY(vk_status(device_.fn().vkCreateShaderModule(device_.handle(), &info, nullptr, &module), shader_name(id)));
  modules_.emplace(id, module);
  return module;
}

Result<VkPipeline> PipelineCache::get(const PipelineKey& key) {
  const std::lock_guard<std::mutex> lock(mutex_);
  const auto found = pipelines_.find(key);
  if (found != pipelines_.end()) return found->second;
  NWC_ASSIGN_OR_RETURN(const VkShaderModule module, shader_module(key.shader));

  std::vector<VkSpecializationMapEntry> entries(key.constants.size());
  for (uint32_t i = 0; i < entries.size(); ++i) {
    entries[i] = {i, i * static_cast<uint32_t>(sizeof(uint32_t)), sizeof(uint32_t)};
  }
  VkSpecializationInfo constants{};
  constants.mapEntryCount = static_cast<uint32_t>(entries.size());
  constants.pMapEntries = entries.data();
  constants.dataSize = key.constants.size() * sizeof(uint32_t);
  constants.pData = key.constants.data();

  VkPipelineShaderStageRequiredSubgroupSizeCreateInfoEXT size{};
  size.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO_EXT;
  size.requiredSubgroupSize = key.required_subgroup_size;

  VkComputePipelineCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
  info.layout = layout_;
  info.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
  info.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
  info.stage.module = module;
  info.stage.pName = "main";
  info.stage.pSpecializationInfo = &constants;
  if (key.required_subgroup_size != 0) {
    info.stage.pNext = &size;
    if (device_.info().full_subgroups) {
      info.stage.flags |= VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT;
    }
  }
  VkPipeline pipeline = VK_NULL_HANDLE;
  NWC_TRY(
      vk_status(device_.fn().vkCreateComputePipelines(device_.handle(), driver_cache_, 1, &info, nullptr, &pipeline),
                shader_name(key.shader)));
  pipelines_.emplace(key, pipeline);
  unsaved_ = true;
  return pipeline;
}

}  // namespace nwc
