import { SerialPort } from "serialport";

/**
 * The native part of the library. In a file of its own, which is imported when a port is opened: a bundler gives a
 * dynamic import of a CommonJS package no named exports.
 */
export const binding = SerialPort.binding;
