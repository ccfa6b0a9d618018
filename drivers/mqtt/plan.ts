import type { MqttConfig } from "./config.js";
import { configuredSource, type Preset } from "./message-source.js";
import { homeAssistant } from "./presets/home-assistant.js";
import { shelly } from "./presets/shelly.js";
import { tasmota } from "./presets/tasmota.js";
import { zigbee2mqtt } from "./presets/zigbee2mqtt.js";
import { configuredCommand } from "./publish-command.js";
import type { TopicFilter } from "./topic-filter.js";

/** All that a configuration asks for: its own readings and commands, then those of its presets. */
export function planOf(config: MqttConfig, follow: (filter: TopicFilter) => void): Preset {
  const presets = config.preset.map(({ kind, prefix }) => presetOf(kind, prefix, follow));
  return {
    sources: [...config.reading.map(configuredSource), ...presets.flatMap(({ sources }) => sources)],
    commands: [...config.command.map(configuredCommand), ...presets.flatMap(({ commands }) => commands)],
  };
}

function presetOf(
  kind: MqttConfig["preset"][number]["kind"],
  prefix: string | undefined,
  follow: (filter: TopicFilter) => void,
): Preset {
  switch (kind) {
    case "zigbee2mqtt":
      return zigbee2mqtt(prefix ?? "zigbee2mqtt");
    case "tasmota":
      return tasmota();
    case "shelly":
      return shelly();
    case "home-assistant":
      return homeAssistant(prefix ?? "homeassistant", follow);
  }
}
