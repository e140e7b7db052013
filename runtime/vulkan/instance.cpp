#include "runtime/vulkan/instance.h"

#include <cstring>

#include "runtime/base/str_cat.h"

namespace nwc {
namespace {

constexpr char kValidationLayer[] = "VK_LAYER_KHRONOS_validation";

bool has_layer(const GlobalFunctions& fn, const char* name) {
  uint32_t count = 0;
  if (fn.vkEnumerateInstanceLayerProperties(&count, nullptr) != VK_SUCCESS) return false;
  std::vector<VkLayerProperties> layers(count);
  if (fn.vkEnumerateInstanceLayerProperties(&count, layers.data()) < VK_SUCCESS) return false;
  for (uint32_t i = 0; i < count; ++i) {
    if (std::strcmp(layers[i].layerName, name) == 0) return true;
  }
  return false;
}

bool has_extension(const GlobalFunctions& fn, const char* layer, const char* name) {
  uint32_t count = 0;
  if (fn.vkEnumerateInstanceExtensionProperties(layer, &count, nullptr) != VK_SUCCESS) return false;
  std::vector<VkExtensionProperties> extensions(count);
  if (fn.vkEnumerateInstanceExtensionProperties(layer, &count, extensions.data()) < VK_SUCCESS) return false;
  for (uint32_t i = 0; i < count; ++i) {
    if (std::strcmp(extensions[i].extensionName, name) == 0) return true;
  }
  return false;
}

}  // namespace

VKAPI_ATTR VkBool32 VKAPI_CALL VulkanInstance::on_message(VkDebugUtilsMessageSeverityFlagBitsEXT,
                                                          VkDebugUtilsMessageTypeFlagsEXT,
                                                          const VkDebugUtilsMessengerCallbackDataEXT* data,
                                                          void* user) {
  auto* self = static_cast<VulkanInstance*>(user);
  self->validation_messages_.fetch_add(1);
  self->log_.log(LogLevel::kError, str_cat("Vulkan validation: ", (data->pMessage ? data->pMessage : "")));
  return VK_FALSE;
}

Result<std::unique_ptr<VulkanInstance>> VulkanInstance::create(bool validation, const Logger& log) {
  std::unique_ptr<VulkanInstance> self(new VulkanInstance());
  self->log_ = log;
  NWC_ASSIGN_OR_RETURN(self->library_, VulkanLibrary::load());
  const GlobalFunctions& global = self->library_->global();

  uint32_t version = 0;
  if (global.vkEnumerateInstanceVersion(&version) != VK_SUCCESS || version < VK_API_VERSION_1_1) {
    return Status(StatusCode::kNoDevice, "the Vulkan loader is older than version 1.1: update it");
  }
  std::vector<const char*> layers, extensions;
  bool messages = false, synchronization = false;
  if (validation) {
    messages = has_layer(global, kValidationLayer) &&
               (has_extension(global, nullptr, VK_EXT_DEBUG_UTILS_EXTENSION_NAME) ||
                has_extension(global, kValidationLayer, VK_EXT_DEBUG_UTILS_EXTENSION_NAME));
    if (messages) {
      layers.push_back(kValidationLayer);
      extensions.push_back(VK_EXT_DEBUG_UTILS_EXTENSION_NAME);
      synchronization = has_extension(global, kValidationLayer, VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME);
      if (synchronization) extensions.push_back(VK_EXT_VALIDATION_FEATURES_EXTENSION_NAME);
    } else {
      log.log(LogLevel::kWarning, str_cat("Vulkan validation was asked for, but ", kValidationLayer,
                                          " is not installed: continuing without"));
    }
  }
  VkInstanceCreateInfo info{};
  info.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO;
  // Layered implementations (MoltenVK) are listed only to those who ask.
  if (has_extension(global, nullptr, VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME)) {
    extensions.push_back(VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME);
    info.flags |= VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR;
  }
  // Missing barriers, too: what one kernel writes and the next reads.
  const VkValidationFeatureEnableEXT enabled = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT;
  VkValidationFeaturesEXT features{};
  features.sType = VK_STRUCTURE_TYPE_VALIDATION_FEATURES_EXT;
  features.enabledValidationFeatureCount = 1;
  features.pEnabledValidationFeatures = &enabled;
  if (synchronization) info.pNext = &features;
  VkApplicationInfo application{};
  application.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO;
  application.pEngineName = "nwc";
  application.apiVersion = VK_API_VERSION_1_1;
  info.pApplicationInfo = &application;
  info.enabledLayerCount = static_cast<uint32_t>(layers.size());
  info.ppEnabledLayerNames = layers.data();
  info.enabledExtensionCount = static_cast<uint32_t>(extensions.size());
  info.ppEnabledExtensionNames = extensions.data();
  if (const VkResult r = global.vkCreateInstance(&info, nullptr, &self->handle_); r != VK_SUCCESS) {
    self->handle_ = VK_NULL_HANDLE;
    return Status(StatusCode::kNoDevice, str_cat("vkCreateInstance: ", vk_result_name(r), ": no usable Vulkan driver"));
  }
  NWC_TRY(self->library_->load_instance(self->handle_, &self->fn_));

  if (messages && self->fn_.vkCreateDebugUtilsMessengerEXT != nullptr) {
    VkDebugUtilsMessengerCreateInfoEXT messenger{};
    messenger.sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_MESSENGER_CREATE_INFO_EXT;
    messenger.messageSeverity =
        VK_DEBUG_UTILS_MESSAGE_SEVERITY_WARNING_BIT_EXT | VK_DEBUG_UTILS_MESSAGE_SEVERITY_ERROR_BIT_EXT;
    messenger.messageType = VK_DEBUG_UTILS_MESSAGE_TYPE_VALIDATION_BIT_EXT;
    messenger.pfnUserCallback = &VulkanInstance::on_message;
    messenger.pUserData = self.get();
    NWC_TRY(vk_status(self->fn_.vkCreateDebugUtilsMessengerEXT(self->handle_, &messenger, nullptr, &self->messenger_),
                      "vkCreateDebugUtilsMessengerEXT"));
  }
  return self;
}

Result<std::unique_ptr<VulkanInstance>> VulkanInstance::borrow(const BorrowedDevice& device, const Logger& log) {
  if (device.instance == nullptr || device.physical_device == nullptr || device.queue == nullptr)
    return invalid_argument("a Vulkan device of the caller's needs its instance, physical device and queue, too");
  if ((device.lock_queue == nullptr) != (device.unlock_queue == nullptr))
    return invalid_argument("a queue is locked and unlocked, or neither");
  std::unique_ptr<VulkanInstance> self(new VulkanInstance());
  self->log_ = log;
  self->borrowed_ = true;
  if (device.get_instance_proc_addr != nullptr) {
    self->library_ = VulkanLibrary::borrow(reinterpret_cast<PFN_vkGetInstanceProcAddr>(device.get_instance_proc_addr));
  } else {
    NWC_ASSIGN_OR_RETURN(self->library_, VulkanLibrary::load());
  }
  self->handle_ = device.instance;
  const Status loaded = self->library_->load_instance(device.instance, &self->fn_);
  return loaded.ok() ? Result<std::unique_ptr<VulkanInstance>>(std::move(self))
                     : loaded.with_context("the instance has to be made for Vulkan 1.1 or later");
}

void VulkanInstance::leave_behind() {
  if (messenger_ != VK_NULL_HANDLE) fn_.vkDestroyDebugUtilsMessengerEXT(handle_, messenger_, nullptr);
  messenger_ = VK_NULL_HANDLE;
  handle_ = VK_NULL_HANDLE;
  library_->keep_open();
}

VulkanInstance::~VulkanInstance() {
  if (messenger_ != VK_NULL_HANDLE && fn_.vkDestroyDebugUtilsMessengerEXT != nullptr) {
    fn_.vkDestroyDebugUtilsMessengerEXT(handle_, messenger_, nullptr);
  }
  if (handle_ != VK_NULL_HANDLE && !borrowed_ && fn_.vkDestroyInstance != nullptr)
    fn_.vkDestroyInstance(handle_, nullptr);
}

Result<std::vector<VkPhysicalDevice>> VulkanInstance::physical_devices() const {
  uint32_t count = 0;
  NWC_TRY(vk_status(fn_.vkEnumeratePhysicalDevices(handle_, &count, nullptr), "vkEnumeratePhysicalDevices"));
  std::vector<VkPhysicalDevice> devices(count);
  if (count != 0) {
    const VkResult r = fn_.vkEnumeratePhysicalDevices(handle_, &count, devices.data());
    if (r < VK_SUCCESS) return vk_status(r, "vkEnumeratePhysicalDevices");
    devices.resize(count);
  }
  return devices;
}

}  // namespace nwc
